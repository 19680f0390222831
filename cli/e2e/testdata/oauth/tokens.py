# Signs tokens as agents do, with what the environment holds.
import base64, json, os, time
import jwt, requests
from google.auth import jwt as google_jwt
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import service_account


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def send(name, token):
    r = requests.get("https://api.jwt.example/" + name, headers={"Authorization": "Bearer " + token})
    print("pyjwt", name, r.status_code, r.headers.get("X-Superserve-Error", r.text))


claims = {"sub": "me", "iat": int(time.time())}
for alg in "HS256", "HS384", "HS512":
    send(alg, jwt.encode(claims, os.environ["JWT_SECRET"], algorithm=alg))
send("RS256", jwt.encode(claims, os.environ["RSA_KEY"], algorithm="RS256"))
send("ES256", jwt.encode(claims, os.environ["EC_KEY"], algorithm="ES256"))
send("none", part({"alg": "none"}) + "." + part(claims) + ".")
send("other", jwt.encode(claims, "a-key-that-the-agent-made-up-itself", algorithm="HS256"))

account = json.loads(os.environ["GCP_SERVICE_ACCOUNT_KEY"])
scoped = service_account.Credentials.from_service_account_info(account, scopes=["https://www.googleapis.com/auth/devstorage.read_only"])
session = AuthorizedSession(scoped)
for _ in range(2):
    r = session.get("https://storage.googleapis.com/b")
    print("google-auth", r.status_code, r.text.count("Bearer"), scoped.expired)
own = google_jwt.Credentials.from_service_account_info(account, audience="https://pubsub.googleapis.com/")
print("google-auth self-signed", AuthorizedSession(own).get("https://pubsub.googleapis.com/v1").status_code)
ident = service_account.IDTokenCredentials.from_service_account_info(account, target_audience="https://run.googleapis.com")
print("google-auth id token", AuthorizedSession(ident).get("https://run.googleapis.com/").status_code)
print("seen", scoped.token, ident.token)
