# Verifies one token with PyJWT: verify.py ALGORITHM KEYFILE AUDIENCE < token
import sys
import jwt

alg, key, audience = sys.argv[1], open(sys.argv[2]).read(), sys.argv[3]
if "PRIVATE KEY" in key:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    key = load_pem_private_key(key.encode(), None).public_key()
print(jwt.decode(sys.stdin.read(), key, algorithms=[alg], audience=audience or None, options={"verify_aud": bool(audience)}).get("target_audience", ""))
