"""Google Cloud KMS, Secret Manager, the metadata server and the issuer of tokens, as far as the plugin calls them.

Usage: google.py PUBLIC_KEY CLIENT_EMAIL. Requests need a token that has not expired. The metadata server here issues one to
any caller, and /token in exchange for a JWT that the service account has signed. POST /admin changes the state: see `admin`.
"""

import base64
import json
import os
import sys
import time

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from flask import Flask, jsonify, request
from werkzeug.serving import make_server

KEY = "projects/p/locations/global/keyRings/r/cryptoKeys/kek"
SECRET = "projects/p/secrets/kek"

app = Flask(__name__)
public_key = serialization.load_pem_public_key(open(sys.argv[1], "rb").read())
client_email = sys.argv[2]
# The time at which each token expires.
issued = {}
# Of each service: the bytes of each version, and its state.
kms = [[os.urandom(32), "ENABLED"]]
secrets = [[os.urandom(32), "ENABLED"]]
# `lifetime` is that of a new token, `refuse` the response to an exchange, `no_account` that of the metadata server.
state = {"deny": False, "fail": None, "lifetime": 3600, "refuse": None, "no_account": False, "tokens": 0, "exchanges": 0}


def error(code, status):
    return jsonify(error={"code": code, "status": status, "message": "the message of the service"}), code


def decoded(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def is_signed(token):
    """Whether this is a JWT that the service account signed for /token, and that is valid now."""
    parts = token.split(".")
    if len(parts) != 3 or json.loads(decoded(parts[0]))["alg"] != "RS256":
        return False
    try:
        signed = f"{parts[0]}.{parts[1]}".encode()
        public_key.verify(decoded(parts[2]), signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    claims = json.loads(decoded(parts[1]))
    expected = {"iss": client_email, "aud": request.base_url, "scope": "https://www.googleapis.com/auth/cloud-platform"}
    times = claims["iat"] <= time.time() < claims["exp"] <= claims["iat"] + 3600
    return times and all(claims[name] == value for name, value in expected.items())


def token():
    text = f"token-{os.urandom(8).hex()}"
    issued[text] = time.monotonic() + state["lifetime"]
    return jsonify(access_token=text, expires_in=state["lifetime"], token_type="Bearer")


@app.before_request
def authenticate():
    if not request.path.startswith("/v1/"):
        return None
    if state["fail"]:
        return error(*state["fail"])
    text = request.headers.get("authorization", "").removeprefix("Bearer ")
    if issued.get(text, 0) <= time.monotonic():
        return error(401, "UNAUTHENTICATED")
    return error(403, "PERMISSION_DENIED") if state["deny"] else None


@app.post("/token")
def exchange():
    if state["refuse"]:
        return jsonify(error="refused", error_description="the message of the service"), state["refuse"]
    form = request.form
    grant = form.get("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    if not grant or not is_signed(form.get("assertion", "")):
        return jsonify(error="invalid_grant", error_description="the message of the service"), 400
    state["exchanges"] += 1
    return token()


@app.get("/computeMetadata/v1/instance/service-accounts/default/token")
def metadata_token():
    if request.headers.get("metadata-flavor") != "Google":
        return error(403, "PERMISSION_DENIED")
    if state["no_account"]:
        return "there is no service account", 404
    state["tokens"] += 1
    return token()


def version(number):
    return {"name": f"{KEY}/cryptoKeyVersions/{number}", "state": kms[number - 1][1]}


@app.get(f"/v1/{KEY}")
def crypto_key():
    return jsonify(name=KEY, purpose="ENCRYPT_DECRYPT", primary=version(len(kms)))


@app.get(f"/v1/{KEY}/cryptoKeyVersions/<int:number>")
def crypto_key_version(number):
    return jsonify(version(number))


@app.post(f"/v1/{KEY}:encrypt")
def encrypt():
    body = request.get_json()
    key, status = kms[-1]
    if status != "ENABLED" or state.get("external"):
        return error(400, "FAILED_PRECONDITION")
    nonce, aad = os.urandom(12), base64.b64decode(body["additionalAuthenticatedData"])
    sealed = bytes([len(kms)]) + nonce + AESGCM(key).encrypt(nonce, base64.b64decode(body["plaintext"]), aad)
    return jsonify(name=version(len(kms))["name"], ciphertext=base64.b64encode(sealed).decode())


@app.post(f"/v1/{KEY}:decrypt")
def decrypt():
    body = request.get_json()
    sealed = base64.b64decode(body["ciphertext"])
    if not 0 < sealed[0] <= len(kms):
        return error(400, "INVALID_ARGUMENT")
    key, status = kms[sealed[0] - 1]
    if status != "ENABLED" or state.get("external"):
        return error(400, "FAILED_PRECONDITION")
    try:
        aad = base64.b64decode(body["additionalAuthenticatedData"])
        plaintext = AESGCM(key).decrypt(sealed[1:13], sealed[13:], aad)
    except InvalidTag:
        return error(400, "INVALID_ARGUMENT")
    return jsonify(plaintext=base64.b64encode(plaintext).decode())


@app.get(f"/v1/{SECRET}/versions/<number>:access")
def access(number):
    number = len(secrets) if number == "latest" else int(number)
    if number > len(secrets):
        return error(404, "NOT_FOUND")
    key, status = secrets[number - 1]
    if status != "ENABLED":
        return error(400, "FAILED_PRECONDITION")
    # The service answers with the number of the project.
    name = f"projects/123/secrets/kek/versions/{number}"
    return jsonify(name=name, payload={"data": base64.b64encode(key).decode()})


@app.post("/admin")
def admin():
    """Sets members of `state`. `kms` and `secrets` add a version or set the state of one: [number, state].

    `revoke` revokes all tokens.
    """
    for name, value in request.get_json(force=True).items():
        if name == "revoke":
            issued.clear()
            continue
        versions = {"kms": kms, "secrets": secrets}.get(name)
        if versions is None:
            state[name] = value
        elif value == "rotate":
            versions.append([os.urandom(32), "ENABLED"])
        else:
            versions[value[0] - 1][1] = value[1]
    return jsonify(state)


server = make_server("127.0.0.1", 0, app, threaded=True)
print(f"serving {server.port}", flush=True)
server.serve_forever()
