"""AES-GCM, an RSA signature, a key derived."""

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import scrypt
from Crypto.PublicKey import RSA
from Crypto.Random import get_random_bytes
from Crypto.Signature import pss

key = scrypt("word", get_random_bytes(16), 32, N=2**14, r=8, p=1)
cipher = AES.new(key, AES.MODE_GCM)
hidden, tag = cipher.encrypt_and_digest(b"text")
assert AES.new(key, AES.MODE_GCM, nonce=cipher.nonce).decrypt_and_verify(hidden, tag) == b"text"
pair = RSA.generate(2048)
pss.new(pair).verify(SHA256.new(b"text"), pss.new(pair).sign(SHA256.new(b"text")))
