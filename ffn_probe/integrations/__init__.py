"""Integrations: probes in the training loops and loggers that people have, each optional.

    from ffn_probe.integrations.transformers_callback import ProbeCallback    # Trainer
    from ffn_probe.integrations.lightning_callback import LightningProbe      # Lightning
    from ffn_probe.integrations.tensorboard_sink import TensorBoardSink
    from ffn_probe.integrations.wandb_sink import WandbSink

A loop of one's own needs none of them:

    with ffn_probe.attach(model, to="runs/training", example=batch, when="training") as probe:
        for batch in batches:
            ...                                         # forward, backward, optimizer.step()
            probe.step(loss=loss)
"""
