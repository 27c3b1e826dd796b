"""Online rows in Redis (from version 6.2) or Valkey: one hash for each space, a field for each key, and a set with the spaces' names.

Hashes rather than keys of their own: 100 rows by HMGET take 245 us where MGET takes 280, a row of 102 bytes costs 180 of the server's memory where
as a key of its own it takes 230, counting and drawing need no walk over the keyspace, and a space is dropped by one command. What is asked of
several spaces goes in one MULTI: every command sees the same instant.

A batch is one Lua script, which nobody's command comes between: the stamps that stand are fetched, compared and the newer rows put. 2,000 rows
take the server 4 ms, in which it answers nobody else; 10,000 take 20. How much of what was acknowledged outlives the server is the server's own
setting (``appendfsync``); what is in here can be made anew. It must not evict: ``maxmemory-policy noeviction``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from endcap.core.errors import EndcapError, IntegrityBroken, InvalidInput, StorageFull, Unreachable
from endcap.core.settings import hide_password, require_online
from endcap.core.transport import is_near
from endcap.storage.ports import require_batch, require_limit, require_space

if TYPE_CHECKING:
    import redis

logger = logging.getLogger(__name__)

_SPACES = b"endcap:online"
_ROWS = b"endcap:online:"
_TIMEOUT_S = 10.0
_CONNECT_S = 3.0
_N_RETRIES = 2
# Numbers of Redis's Lua are doubles, and its order of texts is the locale's: stamps are compared by four whole numbers of 32 bits.
# A call takes at most some 8,000 values, hence the parts of 2,000; the script as a whole is what is atomic.
_WRITE = """
local n, n_written = (#ARGV - 1) / 2, 0
for first = 1, n, 2000 do
  local last = math.min(first + 1999, n)
  local standing, newer, place = redis.call('HMGET', KEYS[1], unpack(ARGV, first, last)), {}, {}
  for i = first, last do
    local key, row = ARGV[i], ARGV[n + i]
    local old = place[key] and newer[place[key]] or standing[i - first + 1]
    local later = true
    if old then
      local a, b, c, d = struct.unpack('>I4I4I4I4', old)
      local e, f, g, h = struct.unpack('>I4I4I4I4', row)
      later = e > a or (e == a and (f > b or (f == b and (g > c or (g == c and h >= d)))))
    end
    if later then
      n_written = n_written + 1
      if not place[key] then
        newer[#newer + 1] = key
        place[key] = #newer + 1
      end
      newer[place[key]] = row
    end
  end
  if #newer > 0 then redis.call('HSET', KEYS[1], unpack(newer)) end
end
if n_written > 0 then redis.call('SADD', KEYS[2], ARGV[#ARGV]) end
return n_written
"""

_REMOVE = """
local n_removed = 0
for first = 1, #ARGV - 1, 2000 do
  n_removed = n_removed + redis.call('HDEL', KEYS[1], unpack(ARGV, first, math.min(first + 1999, #ARGV - 1)))
end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[#ARGV]) end
return n_removed
"""


class RedisOnline:
    """Online rows on the server at ``url`` (``redis://``, ``rediss://``, ``unix://``), which is called when it is first needed.

    The database should be this home's alone. Raises Unreachable where the server does not answer within 10 s.
    """

    def __init__(self, url: str) -> None:
        self._url = require_online(url)
        self._client: redis.Redis | None = None
        self._script: Any = None
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"RedisOnline({hide_password(self._url)})"

    @property
    def n_rows_at_once(self) -> int:
        """So many that the server is busy with a batch for some 4 ms."""
        return 2_000

    def write(self, space: str, *, keys: Sequence[bytes], rows: Sequence[bytes]) -> int:
        require_batch(space, keys, rows)
        if not keys:
            return 0
        name = require_space(space)
        with self._telling() as client:
            return int(self._script(keys=[_ROWS + name, _SPACES], args=[*keys, *rows, name], client=client))

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        asked = [(_ROWS + require_space(space), keys) for space, keys in requests if keys]
        with self._telling() as client:
            if len(asked) == 1:
                answers = [client.execute_command("HMGET", asked[0][0], *asked[0][1])]
            else:
                pipeline = client.pipeline(transaction=True)
                for name, keys in asked:
                    pipeline.execute_command("HMGET", name, *keys)
                answers = pipeline.execute() if asked else []
        rest = iter(answers)
        return [next(rest) if keys else [] for _, keys in requests]

    def get(self, space: str, key: bytes) -> bytes | None:
        with self._telling() as client:
            row: bytes | None = client.execute_command("HGET", _ROWS + require_space(space), key)
        return row

    def sample(self, space: str, n: int) -> list[tuple[bytes, bytes]]:
        require_limit(n)
        name = _ROWS + require_space(space)
        if n == 0:
            return []
        with self._telling() as client:
            drawn = client.execute_command("HRANDFIELD", name, n, "WITHVALUES")
        flat = drawn or []
        return [(key, row) for key, row in flat] if flat and isinstance(flat[0], list) else list(zip(flat[::2], flat[1::2], strict=True))

    def count(self, space: str) -> int:
        with self._telling() as client:
            return int(client.execute_command("HLEN", _ROWS + require_space(space)))

    def remove(self, space: str, keys: Sequence[bytes]) -> int:
        name = require_space(space)
        if not keys:
            return 0
        with self._telling() as client:
            return int(client.eval(_REMOVE, 2, _ROWS + name, _SPACES, *keys, name))

    def drop(self, space: str) -> None:
        name = require_space(space)
        with self._telling() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.execute_command("UNLINK", _ROWS + name)
            pipeline.execute_command("SREM", _SPACES, name)
            pipeline.execute()

    def spaces(self) -> list[str]:
        with self._telling() as client:
            return sorted(name.decode() for name in client.execute_command("SMEMBERS", _SPACES))

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    @contextmanager
    def _telling(self) -> Iterator[redis.Redis]:
        """The client; Redis's errors become those of the house, chained."""
        client = self._client or self._connect()
        import redis

        try:
            yield client
        except redis.RedisError as error:
            told = self._explain(error)
            if told is None:
                raise
            raise told from error

    def _connect(self) -> redis.Redis:
        try:
            import redis
            from redis.backoff import ExponentialBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise InvalidInput(
                f"The online store {hide_password(self._url)} needs the package redis, which is not installed.", hint="pip install 'endcap[redis]'"
            ) from error
        url, secured = demand_tls(self._url)
        with self._lock:
            if self._client is None:
                try:
                    retry = Retry(ExponentialBackoff(cap=0.1, base=0.01), _N_RETRIES)  # all that is asked may be asked again
                    client = redis.Redis.from_url(url, **secured, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_CONNECT_S, retry=retry)
                    client.connection_pool.make_connection()  # an option that is none is told now; nobody is called yet
                except (ValueError, TypeError):
                    # Not chained: what cannot be read as a URL is quoted in the error, and a password may be the reason.
                    raise InvalidInput(
                        f"{hide_password(self._url)} cannot be read as the URL of a server.",
                        hint="write redis://USER:PASSWORD@HOST:6379/0, with %40 for an @ in the password, %2F for a /, %3A for a :",
                    ) from None
                self._script = client.register_script(_WRITE)
                self._client = client
            return self._client

    def _explain(self, error: redis.RedisError) -> EndcapError | None:
        """What an error of Redis means; None for one that means nothing of the kind."""
        import redis

        where = f"The online store {hide_password(self._url)}"
        text = str(error).rpartition("of pipeline caused error: ")[2]  # before it stands the command with its keys, which may be personal
        if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError | redis.exceptions.AuthorizationError):
            return InvalidInput(f"{where} lets nobody in so: {text}.", hint="look at the user and the password in ENDCAP_ONLINE")
        if "certificate" in text.lower():
            return InvalidInput(
                f"{where} shows a certificate that is not trusted: {text[:300]}.",
                hint="name its authority: rediss://...?ssl_ca_certs=/etc/ca.crt, and call the server as the certificate does",
            )
        if isinstance(error, redis.ConnectionError | redis.TimeoutError):
            return Unreachable(
                f"{where} does not answer: {text}", hint="start the server, or correct ENDCAP_ONLINE; what was acknowledged offline is kept"
            )
        if text.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            return InvalidInput(f"{where} lets nobody in so: {text}.", hint="look at the user and the password in ENDCAP_ONLINE")
        if isinstance(error, redis.exceptions.OutOfMemoryError) or text.startswith(("OOM", "MISCONF")):
            return StorageFull(f"{where} takes no more: {text} All is as it was before.", hint="give it more memory or disk, then write again")
        if isinstance(error, redis.ReadOnlyError) or text.startswith("READONLY"):
            return InvalidInput(f"{where} is a copy that takes no writes: {text}.", hint="name the server it copies")
        if text.startswith("WRONGTYPE"):
            return IntegrityBroken(f"{where} holds something else where online rows are kept: {text}.", hint="give each home a database of its own")
        if text.startswith(("unknown command", "ERR unknown command")):
            return InvalidInput(f"{where} is too old: {text}.", hint="Redis from 6.2 on, or Valkey")
        return None


def demand_tls(url: str) -> tuple[str, dict[str, bool]]:
    """The URL of a server as its client takes it, and what else it is told: that a server by TLS must show a certificate of its own name.

    Raises InvalidInput where a password would go to another machine in plain; ``?tls=off`` says that the network is one's own.
    """
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    plain, rest = ("tls", "off") in options, url
    if plain:
        rest = urlunsplit(parts._replace(query=urlencode([option for option in options if option != ("tls", "off")])))
    if parts.scheme == "rediss":
        return rest, {"ssl_check_hostname": True}
    if parts.scheme == "redis" and not is_near(parts.hostname or "") and (parts.password or any(name == "password" for name, _ in options)):
        if not plain:
            raise InvalidInput(
                f"The password of the online store {hide_password(url)} would go over the network in plain.",
                hint="write rediss://...?ssl_ca_certs=/etc/ca.crt, or add ?tls=off where the network is yours alone",
            )
        logger.warning("%s: its password and its rows can be read on the way; rediss:// keeps them", hide_password(url))
    return rest, {}
