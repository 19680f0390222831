# Gets and uses tokens as Python programs do, with the client secret that the environment holds.
import os, sys
from urllib.parse import parse_qs, urlparse
import requests
from authlib.integrations.requests_client import OAuth2Session as Authlib
from oauthlib.oauth2 import BackendApplicationClient
from requests_oauthlib import OAuth2Session

SECRET, AUTH, API = os.environ["OAUTH_CLIENT_SECRET"], "https://auth.example", "https://api.example/me"
TOKEN = AUTH + "/token"


def code(url):
    "Follows the provider's redirects until they lead back to the application."
    s = requests.Session()
    while not url.startswith("https://app.example/"):
        r = s.get(url, allow_redirects=False)
        if "Location" not in r.headers:
            sys.exit("%s: %s %s" % (url, r.status_code, r.text[:500]))
        url = requests.compat.urljoin(url, r.headers["Location"])
    return url


def show(name, session, token):
    print(name, session.get(API).status_code, sorted(k for k in token if k.endswith("_token")), token["expires_in"] > 0, flush=True)
    print("seen", dict(token))


s = OAuth2Session("basic-app", redirect_uri="https://app.example/cb", scope="openid")
url, _ = s.authorization_url(AUTH + "/auth")
token = s.fetch_token(TOKEN, authorization_response=code(url), client_secret=SECRET)
show("requests-oauthlib code", s, token)
before = token["refresh_token"]
token = s.refresh_token(TOKEN, auth=("basic-app", SECRET))
show("requests-oauthlib refresh", s, token)
print("rotated", token["refresh_token"] != before)
used = requests.post(TOKEN, data={"grant_type": "refresh_token", "refresh_token": before}, auth=("basic-app", SECRET))
print("the old one", used.status_code, used.json()["error"])
s = OAuth2Session(client=BackendApplicationClient("basic-app"))
show("requests-oauthlib client", s, s.fetch_token(TOKEN, client_id="basic-app", client_secret=SECRET))

a = Authlib("post-app", SECRET, scope="openid", redirect_uri="https://app.example/cb", token_endpoint_auth_method="client_secret_post")
url, _ = a.create_authorization_url(AUTH + "/auth")
show("authlib code", a, a.fetch_token(TOKEN, authorization_response=code(url)))
show("authlib refresh", a, a.refresh_token(TOKEN))

r = requests.post("https://forms.example/login/oauth/access_token", data={"client_id": "x", "client_secret": SECRET, "code": "y"})
form = {k: v[0] for k, v in parse_qs(r.text).items()}
print("form", r.status_code, form["scope"], requests.get("https://forms.example/user", headers={"Authorization": "token " + form["access_token"]}).status_code)
print("seen", r.text)
r = requests.post(TOKEN, data={"grant_type": "authorization_code", "code": "of-another-account", "client_id": "public"})
print("no secret of ours", r.status_code, r.headers["X-Superserve-Error"])
r = requests.get("https://elsewhere.example/", headers={"Authorization": "Bearer " + token["access_token"]})
print("elsewhere", r.status_code, r.headers.get("X-Superserve-Error", r.text))
