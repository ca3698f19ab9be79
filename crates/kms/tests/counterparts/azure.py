"""Azure Key Vault, Microsoft Entra ID and a managed identity, as far as the plugin calls them.

Usage: azure.py CERTIFICATE PRIVATE_KEY. The vault and Entra ID have TLS, the identity's endpoint has not. Requests need a token
that one of them has issued. POST /admin changes the state: see `admin`.
"""

import base64
import os
import sys
import threading
import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from flask import Flask, jsonify, request
from werkzeug.serving import make_server

OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)

app = Flask(__name__)
issued = set()
keys = {}
state = {"deny": False, "fail": None, "kind": "RSA", "secrets": 0, "identities": 0}


def rotate():
    name = os.urandom(16).hex()
    keys[name] = [rsa.generate_private_key(public_exponent=65537, key_size=2048), True]
    state["newest"] = name


rotate()


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def error(status, code):
    return jsonify(error={"code": code, "message": "the message of the service"}), status


def token():
    text = f"token-{os.urandom(8).hex()}"
    issued.add(text)
    return text


@app.before_request
def authenticate():
    if not request.path.startswith("/keys/"):
        return None
    if state["fail"]:
        return error(state["fail"], "Failed")
    if request.headers.get("authorization", "").removeprefix("Bearer ") not in issued:
        response, status = error(401, "Unauthorized")
        challenge = 'Bearer authorization="https://login.example/tenant", resource="https://vault.azure.net"'
        response.headers["WWW-Authenticate"] = challenge
        return response, status
    return error(403, "Forbidden") if state["deny"] else None


@app.get("/identity")
def identity():
    if request.headers.get("x-identity-header") != "secret" or "vault.azure.net" not in request.args["resource"]:
        return error(401, "Unauthorized")
    state["identities"] += 1
    expires = str(int(time.time()) + 3600)
    return jsonify(access_token=token(), expires_on=expires, resource=request.args["resource"], token_type="Bearer")


@app.post("/tenant/oauth2/v2.0/token")
def entra():
    form = request.form
    if form["client_id"] != "client" or form["client_secret"] != "right":
        return jsonify(error="invalid_client", error_description="wrong"), 401
    state["secrets"] += 1
    return jsonify(access_token=token(), expires_in=3600, token_type="Bearer")


def identifier(version):
    return f"https://kek.vault.azure.net/keys/kek/{version}"


@app.route("/keys/<path:path>", methods=["GET", "POST"])
def key(path):
    parts = [part for part in path.split("/") if part]
    if parts[0] != "kek":
        return error(404, "KeyNotFound")
    if request.method == "GET":
        newest = state["newest"]
        attributes = {"enabled": keys[newest][1]}
        return jsonify(key={"kid": identifier(newest), "kty": state["kind"]}, attributes=attributes)
    version = parts[1] if len(parts) == 3 else state["newest"]
    if version not in keys:
        return error(404, "KeyNotFound")
    private, enabled = keys[version]
    if not enabled:
        return error(403, "Forbidden")
    body = request.get_json()
    if body["alg"] != "RSA-OAEP-256":
        return error(400, "BadParameter")
    value = decoded(body["value"])
    if parts[-1] == "wrapkey":
        value = private.public_key().encrypt(value, OAEP)
    else:
        try:
            value = private.decrypt(value, OAEP)
        except ValueError:
            return error(400, "BadParameter")
    return jsonify(kid=identifier(version), value=encoded(value))


@app.post("/admin")
def admin():
    """Sets members of `state`. `rotate` makes a version. `enabled` sets whether a version is: [version, enabled]."""
    for name, value in request.get_json(force=True).items():
        if name == "rotate":
            rotate()
        elif name == "enabled":
            keys[value[0]][1] = value[1]
        else:
            state[name] = value
    return jsonify(state)


vault = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=(sys.argv[1], sys.argv[2]))
identities = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=identities.serve_forever, daemon=True).start()
print(f"serving {vault.port} {identities.port}", flush=True)
vault.serve_forever()
