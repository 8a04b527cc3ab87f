"""Text to tokens and back, with a vocabulary of the program's own, read from a file."""

import base64
import tempfile
from pathlib import Path

import tiktoken
from tiktoken.load import load_tiktoken_bpe

words = [*(bytes([n]) for n in range(256)), b"th", b"the"]
path = Path(tempfile.gettempdir(), "words.tiktoken")
with path.open("wb") as file:
    file.writelines(base64.b64encode(word) + b" %d\n" % rank for rank, word in enumerate(words))
coding = tiktoken.Encoding(
    "own",
    pat_str=r"\w+|\s+|[^\w\s]+",
    mergeable_ranks=load_tiktoken_bpe(str(path)),
    special_tokens={"<end>": 258},
)
assert coding.encode("the") == [257]
assert coding.decode_batch(coding.encode_batch(["the größer", "other"])) == ["the größer", "other"]
