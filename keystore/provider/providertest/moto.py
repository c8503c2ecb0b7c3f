# moto's server as AWS KMS, for tests. moto keeps the state of a key and lets a
# disabled one encrypt all the same, so that is refused here, with what AWS
# documents for it: DisabledException and KMSInvalidStateException.
from moto.core.exceptions import JsonRESTError
from moto.kms.models import KmsBackend
from moto.server import main


def refuse(key):
    if key.key_state == "Disabled":
        raise JsonRESTError("DisabledException", key.arn + " is disabled.")
    if key.key_state == "PendingDeletion":
        raise JsonRESTError("KMSInvalidStateException", key.arn + " is pending deletion.")


def guarded_encrypt(self, key_id, *args, **kwargs):
    real = self.any_id_to_key_id(key_id)
    if real in self.keys:
        refuse(self.keys[real])
    return encrypt(self, key_id, *args, **kwargs)


def guarded_decrypt(self, *args, **kwargs):
    plaintext, arn = decrypt(self, *args, **kwargs)
    refuse(self.keys[self.any_id_to_key_id(arn)])
    return plaintext, arn


encrypt, decrypt = KmsBackend.encrypt, KmsBackend.decrypt
KmsBackend.encrypt, KmsBackend.decrypt = guarded_encrypt, guarded_decrypt
main(["-H", "127.0.0.1", "-p", "0"])
