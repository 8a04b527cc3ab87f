"""An RSA signature made and checked, a certificate issued, a message encrypted."""

import datetime

from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
scheme = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
signature = key.sign(b"text", scheme, hashes.SHA256())
key.public_key().verify(signature, b"text", scheme, hashes.SHA256())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
now = datetime.datetime(2026, 1, 1)
certificate = (
    x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(9))
).sign(key, hashes.SHA256())
assert certificate.subject == name
secret = Fernet(Fernet.generate_key())
assert secret.decrypt(secret.encrypt(b"text")) == b"text"
