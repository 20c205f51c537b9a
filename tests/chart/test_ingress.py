"""How clients come in: which path leads where, and that nothing on the way cuts or collects a stream."""

import re
from typing import Any

import pytest

from lamplighter.config.model import GatewayConfig
from lamplighter.core.units import Duration
from lamplighter.gateway.inference.operations import OPERATIONS
from lamplighter.gateway.ollama.app import claims
from tests.chart.matrix import HOST, Values, combined
from tests.chart.rendering import of, one, render

DISTRIBUTED: Values = {"mode": "distributed", "postgresql": {"mode": "embedded"}, "page": {"mode": "nginx"}}
KINDS: dict[str, Values] = {
    "nginx": {"ingress": {"kind": "nginx", "hosts": [HOST]}},
    "alb": {"ingress": {"kind": "alb", "hosts": [HOST]}},
    "generic": {"ingress": {"kind": "generic", "hosts": [HOST]}},
    "traefik": {"ingress": {"kind": "traefik", "hosts": [HOST]}},
    "gateway": {"ingress": {"kind": "gateway", "hosts": [HOST], "gateway": {"parentRefs": [{"name": "public"}]}}},
}
GATEWAY_PATHS = sorted({*OPERATIONS, "/v1/models", "/api/chat", "/api/session", "/openapi.json", "/health", "/ready"})
HOLD = GatewayConfig.model_validate({}).hold
SILENCE = GatewayConfig.model_validate({}).first_byte_timeout


def routes(documents: list[Any]) -> list[tuple[str, str]]:
    """Prefixes and the Services that they lead to, the longest prefix first."""
    found = []
    for ingress in of(documents, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            found += [(path["path"], path["backend"]["service"]["name"]) for path in rule["http"]["paths"]]
    for route in of(documents, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            found += [
                (match["path"]["value"], backend["name"])
                for match in rule.get("matches", ())
                for backend in rule.get("backendRefs", ())
            ]
    for route in of(documents, "IngressRoute", "lamplighter"):
        for rule in route["spec"]["routes"]:
            prefixes = re.findall(r"PathPrefix\(`([^`]+)`\)", rule["match"]) or ["/"]
            found += [(prefix, service["name"]) for prefix in prefixes for service in rule["services"]]
    return sorted(found, key=lambda pair: -len(pair[0]))


def leads_to(documents: list[Any], path: str) -> str:
    """The Service that answers a path: prefixes count by whole parts."""
    return next(service for prefix, service in routes(documents) if prefix in ("/", path) or path.startswith(f"{prefix}/"))


@pytest.mark.parametrize("kind", KINDS)
def test_each_route_reaches_who_answers_it(kind: str) -> None:
    """A path of the API that leads to the page answers clients with HTML."""
    documents = render(combined(DISTRIBUTED, KINDS[kind]))
    for path in GATEWAY_PATHS:
        assert leads_to(documents, path) == "lamplighter-gateway", path
    for path in ("/", "/chat", "/assets/index.js", "/v1x", "/apidocs"):
        assert leads_to(documents, path) == "lamplighter-page", path
    together = render(combined(DISTRIBUTED, KINDS[kind], {"page": {"mode": "gateway"}}))
    assert leads_to(together, "/") == "lamplighter-gateway"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_leads_to_the_admin_port(kind: str) -> None:
    """Keys would be made from the internet."""
    documents = render(combined(DISTRIBUTED, KINDS[kind]))
    assert {service for _, service in routes(documents)} == {"lamplighter-gateway", "lamplighter-page"}
    assert "/metrics" not in {prefix for prefix, _ in routes(documents)}


def test_ollama_paths_are_all_under_api() -> None:
    """Else one of Ollama's own routes would lead to the page."""
    assert claims("/api/chat", {"method": "POST", "headers": []})
    assert not claims("/chat", {"method": "POST", "headers": []})


def test_nginx_buffers_nothing_and_waits_long_enough() -> None:
    """Tokens in blocks, a second try of a running answer, or a cut after a minute: nginx's own defaults."""
    (ingress,) = of(render(KINDS["nginx"]), "Ingress")
    said = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    assert (said["proxy-buffering"], said["proxy-request-buffering"], said["proxy-next-upstream"]) == ("off", "off", "off")
    assert int(said["proxy-read-timeout"]) > max(HOLD, SILENCE)
    assert said["proxy-body-size"] == "10m"
    assert ingress["spec"]["ingressClassName"] == "nginx"


def test_alb_has_the_certificate_and_waits_longer_than_a_hold() -> None:
    """AWS cuts after a minute of silence unless told otherwise, and a held request is silent for 55 seconds."""
    arn = "arn:aws:acm:eu-central-1:123456789012:certificate/11111111-2222-3333-4444-555555555555"
    (ingress,) = of(
        render(combined(KINDS["alb"], {"ingress": {"tls": {"mode": "terminated"}, "alb": {"certificateArn": arn}}})), "Ingress"
    )
    said = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    assert said["certificate-arn"] == arn
    assert int(said["load-balancer-attributes"].removeprefix("idle_timeout.timeout_seconds=")) > max(HOLD, SILENCE)
    assert said["ssl-redirect"] == "443"
    assert said["target-type"] == "ip"
    assert said["healthcheck-path"] == "/ready"
    assert ingress["spec"]["ingressClassName"] == "alb"
    assert "tls" not in ingress["spec"]


def test_traefik_flushes_and_waits() -> None:
    """Its own transport gives up on headers only when told to; it must not before the gateway does."""
    documents = render(combined(KINDS["traefik"], {"ingress": {"tls": {"mode": "secret"}}}))
    route = one(documents, "IngressRoute", "lamplighter")
    first, rest = route["spec"]["routes"]
    assert first["priority"] > rest["priority"]
    assert first["services"][0]["responseForwarding"] == {"flushInterval": "-1ms"}
    transport = one(documents, "ServersTransport", "lamplighter-streams")["spec"]["forwardingTimeouts"]
    assert Duration.parse(transport["responseHeaderTimeout"]) > max(HOLD, SILENCE)
    assert route["spec"]["tls"] == {"secretName": "lamplighter-tls"}
    assert one(documents, "IngressRoute", "lamplighter-redirect")["spec"]["entryPoints"] == ["web"]
    assert one(documents, "Middleware", "lamplighter-https")["spec"]["headers"]["stsSeconds"] == 15552000
    plain = render(KINDS["traefik"])
    assert of(plain, "Middleware") == []
    assert "tls" not in one(plain, "IngressRoute", "lamplighter")["spec"]


def test_the_gateway_api_has_no_limit_but_ours() -> None:
    """Envoy's own limit is 15 seconds."""
    (route,) = of(render(KINDS["gateway"]), "HTTPRoute")
    assert route["spec"]["rules"][0]["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert route["spec"]["parentRefs"] == [{"name": "public"}]


def test_a_gateway_of_its_own_listens_with_the_certificate() -> None:
    """One listener for each host, and HTTP that only sends to HTTPS."""
    values: Values = {
        "ingress": {
            "kind": "gateway",
            "hosts": [HOST, "chat.example.com"],
            "gateway": {"createClass": "envoy"},
            "tls": {"mode": "certManager", "issuer": {"name": "letsencrypt", "kind": "Issuer"}},
        }
    }
    documents = render(values)
    (gateway,) = of(documents, "Gateway")
    assert [(one["name"], one["protocol"]) for one in gateway["spec"]["listeners"]] == [
        ("http", "HTTP"),
        ("https-0", "HTTPS"),
        ("https-1", "HTTPS"),
    ]
    (certificate,) = of(documents, "Certificate")
    assert certificate["spec"]["dnsNames"] == [HOST, "chat.example.com"]
    assert certificate["spec"]["issuerRef"] == {"name": "letsencrypt", "kind": "Issuer", "group": "cert-manager.io"}
    assert gateway["spec"]["listeners"][1]["tls"]["certificateRefs"][0]["name"] == certificate["spec"]["secretName"]
    assert len(of(documents, "HTTPRoute")) == 2


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, None),
        (combined(KINDS["generic"], {"ingress": {"tls": {"mode": "secret"}}}), f"https://{HOST}"),
        (KINDS["generic"], f"http://{HOST}"),
        ({"server": {"publicUrl": "https://elsewhere.example.com"}}, "https://elsewhere.example.com"),
        ({"ingress": {"kind": "generic", "hosts": ["*.example.com"]}}, None),
    ],
)
def test_links_have_the_address_that_people_use(values: Values, url: str | None) -> None:
    """A login link that leads to a pod's address is of no use."""
    from lamplighter.config import parse

    config = parse(one(render(values), "ConfigMap", "lamplighter-config")["data"]["lamplighter.yaml"])
    assert config.server.public_url == url


def test_allowed_hosts_let_the_cluster_itself_in() -> None:
    """`helm test` and other pods ask by the Service's name, which nobody lists."""
    from lamplighter.config import parse

    values: Values = {
        "server": {
            "allowedHosts": [HOST],
            "cors": {"origins": ["https://app.example.com"], "maxAge": "1h"},
            "trustedProxies": ["10.0.0.0/8"],
        }
    }
    server = parse(one(render(values), "ConfigMap", "lamplighter-config")["data"]["lamplighter.yaml"]).server
    assert server.allowed_hosts == [HOST, "lamplighter-gateway", "lamplighter-gateway.llm", "lamplighter-gateway.llm.svc"]
    assert server.cors.origins == ["https://app.example.com"]
    assert server.trusted_proxies == ["10.0.0.0/8"]
