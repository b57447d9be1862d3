"""A small byte-level language model, and the text it learns: Python's standard library.

Ordinary PyTorch code that knows nothing of probes. Four variants differ in their norm and
their feed-forward block alone and have the same number of matrix parameters:

>>> sorted(VARIANTS)
['ln-gelu', 'ln-swiglu', 'rms-gelu', 'rms-swiglu']
"""

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

MODELS = Path(__file__).parent / "models"
CONTEXT = 256
VOCABULARY = 256

TRAIN = """
abc argparse ast base64 bdb calendar cmd code codecs compileall configparser contextlib copy
copyreg csv dataclasses datetime difflib dis doctest enum filecmp fileinput fractions ftplib
functools genericpath getopt getpass gettext glob gzip hashlib hmac imaplib inspect ipaddress
linecache locale lzma mailbox mimetypes modulefinder netrc ntpath numbers opcode operator
optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint
profile pstats py_compile pyclbr pydoc queue quopri random reprlib rlcompleter runpy selectors
shelve shlex shutil signal site smtplib socket socketserver ssl statistics string stringprep
struct subprocess symtable sysconfig tabnanny tarfile tempfile threading timeit token tokenize
trace traceback tracemalloc types typing uuid warnings wave weakref webbrowser zipapp zipfile
zipimport asyncio/base_events asyncio/events asyncio/futures asyncio/locks asyncio/queues
asyncio/selector_events asyncio/streams asyncio/tasks asyncio/unix_events
collections/__init__ collections/abc concurrent/futures/_base concurrent/futures/process
concurrent/futures/thread email/_header_value_parser email/_parseaddr email/charset
email/feedparser email/generator email/header email/headerregistry email/message email/utils
html/parser http/client http/cookiejar http/cookies http/server importlib/_bootstrap
importlib/_bootstrap_external importlib/util json/decoder logging/__init__ logging/config
logging/handlers multiprocessing/connection multiprocessing/managers multiprocessing/pool
multiprocessing/queues multiprocessing/shared_memory sqlite3/dump tkinter/__init__ tkinter/ttk
unittest/case unittest/loader unittest/main unittest/mock unittest/suite urllib/parse
urllib/request urllib/robotparser venv/__init__ wsgiref/handlers wsgiref/validate
xml/dom/minidom xml/etree/ElementTree xml/sax/expatreader xml/sax/saxutils xmlrpc/client
xmlrpc/server
"""

HELD_BACK = """
bisect bz2 cProfile colorsys contextvars fnmatch graphlib heapq html/__init__ io json/__init__
json/encoder json/scanner json/tool keyword sched secrets stat textwrap
unittest/async_case unittest/result unittest/runner wsgiref/headers wsgiref/simple_server
wsgiref/util xml/dom/pulldom xml/sax/handler xml/sax/xmlreader
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a variant is made of; `d_ff` is per block."""

    norm: type[nn.Module]
    glu: bool
    d_ff: int
    d_model: int = 96
    layers: int = 4
    heads: int = 4


VARIANTS = {
    "ln-gelu": Shape(norm=nn.LayerNorm, glu=False, d_ff=384),
    "ln-swiglu": Shape(norm=nn.LayerNorm, glu=True, d_ff=256),
    "rms-gelu": Shape(norm=nn.RMSNorm, glu=False, d_ff=384),
    "rms-swiglu": Shape(norm=nn.RMSNorm, glu=True, d_ff=256),
}


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions: [batch, length, d_model] to the same."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class GeluMLP(nn.Module):
    """`down(gelu(up(x)))`."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map every position by itself."""
        return self.down(functional.gelu(self.up(x)))


class SwiGLU(nn.Module):
    """`down(silu(gate(x)) * up(x))`."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map every position by itself."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attn_norm = shape.norm(shape.d_model, eps=1e-5)
        self.attn = Attention(shape.d_model, shape.heads)
        self.ffn_norm = shape.norm(shape.d_model, eps=1e-5)
        self.ffn = (SwiGLU if shape.glu else GeluMLP)(shape.d_model, shape.d_ff)

    def forward(self, x: Tensor) -> Tensor:
        """Add what attention and the feed-forward block find to the residual stream."""
        x = x + self.attn(self.attn_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class TinyLM(nn.Module):
    """Predicts the next byte."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, shape.d_model)
        self.positions = nn.Embedding(CONTEXT, shape.d_model)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = shape.norm(shape.d_model, eps=1e-5)
        self.head = nn.Linear(shape.d_model, VOCABULARY, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("proj.weight", "down.weight"))
                std = 0.02 / (2 * shape.layers) ** 0.5 if last else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits [batch, length, 256] of each next byte."""
        x = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


@cache
def text(split: str) -> bytes:
    """Return the sources of one split, "train" or "held-back", each after the other.

    The files are a fixed list of modules in sorted order; no file is in both splits. A
    module that this Python does not have is left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    names = {"train": TRAIN, "held-back": HELD_BACK}[split].split()
    files = (root / f"{name}.py" for name in sorted(names))
    return b"\n".join(file.read_bytes() for file in files if file.is_file())


def batches(
    split: str, *, count: int, sequences: int = 8, length: int = CONTEXT, seed: int = 0
) -> Iterator[dict[str, Tensor]]:
    """Yield `count` batches {"input_ids": int64 [sequences, length]} of one split.

    Training batches start at random bytes; held-back ones never overlap and are spread
    evenly over the text, so every call sees the same.
    """
    data = torch.frombuffer(bytearray(text(split)), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(seed)
    if split == "train":
        starts = torch.randint(len(data) - length, (count, sequences), generator=generator)
    else:
        slots = torch.linspace(0, len(data) // length - 1, count * sequences)
        starts = (slots.long() * length).view(count, sequences)
    offsets = torch.arange(length)
    for row in starts:
        yield {"input_ids": data[row[:, None] + offsets].long()}


def loss(logits: Tensor, input_ids: Tensor) -> Tensor:
    """Return the mean cross entropy of the next byte, in nats."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())


def load(name: str) -> TinyLM:
    """Return the trained model `name`, one of `VARIANTS`, in float32 and eval mode."""
    model = TinyLM(VARIANTS[name])
    weights = load_file(MODELS / f"{name}.safetensors")
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    return model.eval()


def held_back(
    *, count: int = 32, sequences: int = 4, length: int = CONTEXT
) -> list[dict[str, Tensor]]:
    """Return the batches that the sample runs were recorded on."""
    return list(batches("held-back", count=count, sequences=sequences, length=length))


def ln_gelu() -> tuple[TinyLM, list[dict[str, Tensor]]]:
    """LayerNorm and GELU MLP, with the held-back text, for the command line."""
    return load("ln-gelu"), held_back()


def ln_swiglu() -> tuple[TinyLM, list[dict[str, Tensor]]]:
    """LayerNorm and SwiGLU, with the held-back text, for the command line."""
    return load("ln-swiglu"), held_back()


def rms_gelu() -> tuple[TinyLM, list[dict[str, Tensor]]]:
    """RMSNorm and GELU MLP, with the held-back text, for the command line."""
    return load("rms-gelu"), held_back()


def rms_swiglu() -> tuple[TinyLM, list[dict[str, Tensor]]]:
    """RMSNorm and SwiGLU, with the held-back text, for the command line."""
    return load("rms-swiglu"), held_back()
