"""A router that is found by SSDP, and maps ports by SOAP (UPnP Internet Gateway Device), on loopback."""

from __future__ import annotations

import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from stronghold_p2p.port_mapping.gateway import Gateway
from stronghold_p2p.port_mapping.ssdp import KINDS

from .router import LOCAL

__all__ = ["Searched", "SoapRouter"]

SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"

DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>{KINDS[0]}</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>
<serviceType>{SERVICE}</serviceType><controlURL>/control</controlURL><eventSubURL>/events</eventSubURL>
<SCPDURL>/service</SCPDURL></service></serviceList></device></deviceList></device></deviceList></device></root>
"""

ENVELOPE = """<?xml version="1.0"?>
<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>{}</s:Body></s:Envelope>
"""
FAULT = (
    "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
    '<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{}</errorCode></UPnPError></detail></s:Fault>'
)


class Searched(threading.Thread):
    """Answers searches on loopback."""

    def __init__(self, *answers: str) -> None:
        super().__init__(daemon=True)
        self.answers = answers
        self.searches: list[bytes] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((str(LOCAL), 0))
        self.start()

    @property
    def gateway(self) -> Gateway:
        return Gateway(LOCAL, LOCAL, search=self._socket.getsockname())

    def run(self) -> None:
        while True:
            data, address = self._socket.recvfrom(2048)
            if not data:
                break
            self.searches.append(data)
            for url in self.answers:
                text = f"HTTP/1.1 200 OK\r\nST: {KINDS[0]}\r\nLOCATION: {url}\r\n\r\n"
                self._socket.sendto(text.encode(), address)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self.join()
        self._socket.close()


class SoapRouter(Searched):
    """Maps ports."""

    def __init__(self) -> None:
        self.description = DESCRIPTION
        self.external = "1.2.3.4"
        self.permanent = False
        """Refuses mappings that end."""
        self.mappings: dict[int, tuple[str, int, int, str]] = {}
        """Host, port, lifetime and description, by external port."""
        self._server = _Server(self)
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._serving.start()
        super().__init__(f"http://{LOCAL}:{self._server.server_port}/description")

    def close(self) -> None:
        super().close()
        self._server.shutdown()
        self._serving.join()
        self._server.server_close()

    def act(self, action: str, values: dict[str, str]) -> dict[str, str] | int:
        """What an action returns, or the code of its error."""
        if action == "GetExternalIPAddress":
            return {"NewExternalIPAddress": self.external}
        assert (values["NewProtocol"], values["NewRemoteHost"]) == ("TCP", "")
        external_port = int(values["NewExternalPort"])
        if action == "AddPortMapping":
            lifetime = int(values["NewLeaseDuration"])
            if lifetime and self.permanent:
                return 725
            host, port = values["NewInternalClient"], int(values["NewInternalPort"])
            self.mappings[external_port] = host, port, lifetime, values["NewPortMappingDescription"]
            return {}
        if external_port not in self.mappings:
            return 714
        if action == "DeletePortMapping":
            del self.mappings[external_port]
            return {}
        assert action == "GetSpecificPortMappingEntry"
        names = ("NewInternalClient", "NewInternalPort", "NewLeaseDuration", "NewPortMappingDescription")
        return {"NewEnabled": "1", **dict(zip(names, map(str, self.mappings[external_port]), strict=True))}


class _Server(ThreadingHTTPServer):
    def __init__(self, router: SoapRouter) -> None:
        self.router = router
        super().__init__((str(LOCAL), 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.path == "/description"
        self._send(200, self._router.description)

    def do_POST(self) -> None:
        assert self.path == "/control"
        action = self.headers["SOAPAction"].strip('"').removeprefix(f"{SERVICE}#")
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answer = self._router.act(action, dict(re.findall(r"<(New\w+)>([^<]*)<", body)))
        if isinstance(answer, int):
            self._send(500, ENVELOPE.format(FAULT.format(answer)))
        else:
            values = "".join(f"<{name}>{value}</{name}>" for name, value in answer.items())
            response = f'<u:{action}Response xmlns:u="{SERVICE}">{values}</u:{action}Response>'
            self._send(200, ENVELOPE.format(response))

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""

    @property
    def _router(self) -> SoapRouter:
        return cast(_Server, self.server).router

    def _send(self, status: int, text: str) -> None:
        body = text.encode("latin-1")
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
