"""Live: stock that moves before one's eyes, for browsers, phones and other systems' clients."""

import sys
from importlib import import_module

# python-socketio loads the client of every broker and server it knows, where it is installed: half
# a second of each process's start, for nothing that is used here.
_clients = ("valkey", "requests", "aiohttp", "kombu", "websocket")
_unused = [name for name in _clients if name not in sys.modules]
sys.modules.update(dict.fromkeys(_unused))  # type: ignore[arg-type]  # None: as if not there
try:
    import_module("socketio")
finally:
    for _name in _unused:
        del sys.modules[_name]
