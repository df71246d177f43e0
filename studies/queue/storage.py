"""Storage of studies: a SQLite file, or a database for many machines that may go away and return.

Optuna's storage, with three things added: what a server's absence cuts off is done again, a
damaged database is said to be one, and what takes several steps is done by one process at a time.
"""

import functools
import json
import re
import shlex
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy.engine import ExceptionContext

from foundation.errors import UserError
from foundation.run_folder import as_typed
from studies.queue.patience import Patience, StorageAway

# Seconds between two signs of life of a worker, and without one until its trial is taken back.
HEARTBEAT, GRACE = 10, 60

_EXAMPLES = {
    "postgresql": "the URL of a database that is there, e.g. "
    "postgresql+psycopg://user:password@host:5432/name",
    "sqlite": "a file that can be written to, e.g. sqlite:////folder/study.db",
}


class StorageDamagedError(UserError):
    """A database that has lost something: says what, and how to recover."""


# A database that is gone, or refuses.
STORAGE_ERRORS = (
    sqlalchemy.exc.SQLAlchemyError,
    optuna.exceptions.StorageInternalError,
    StorageAway,
    StorageDamagedError,
)


class PatientStorage(RDBStorage):
    """Optuna's storage, which waits for a server that is away.

    Reading, and writing what may be written twice, is repeated by itself. Anything else is not, nor
    what several steps make: who makes them does, by :func:`repeated` or ``patience``.

    Args:
        url: of the database.
        connect: arguments of a connection.

    Attributes:
        patience: see :class:`Patience`.

    Raises:
        StorageAway: by every method, in the end.
        StorageDamagedError: likewise.
    """

    def __init__(self, url: str, connect: Mapping[str, Any]) -> None:
        self.patience = Patience()
        super().__init__(
            url,
            engine_kwargs={"connect_args": dict(connect)},
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
        )

    @property
    def engine(self) -> sqlalchemy.Engine:
        """Connections whose errors are this module's."""
        return self._engine

    @engine.setter
    def engine(self, engine: sqlalchemy.Engine) -> None:  # Optuna's constructor makes it
        self._engine = _explained(engine)


def _patient(name: str) -> Callable[..., Any]:
    inner = getattr(RDBStorage, name)

    @functools.wraps(inner)
    def method(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.patience(lambda: inner(self, *args, **kwargs))
        except KeyError:  # of what is not there
            raise
        except (json.JSONDecodeError, UnicodeDecodeError, LookupError) as error:
            raise _damaged(self.engine.url, str(error)) from error

    return method


for _name in (
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "_set_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "get_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "_get_trials",
    "_get_best_trial_id",
    "_get_stale_trial_ids",
):
    setattr(PatientStorage, _name, _patient(_name))


class _Stored(Protocol):
    @property
    def storage(self) -> PatientStorage: ...


S = TypeVar("S", bound=_Stored)
P = ParamSpec("P")
T = TypeVar("T")


def repeated(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Begin a method again where its storage's server was away, until it is done.

    It must not matter how far it came before.
    """

    @functools.wraps(method)
    def patient(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.storage.patience(lambda: method(self, *args, **kwargs))

    return patient


def open_storage(url: str, *, patient: bool = False) -> PatientStorage:
    """Connect to a database, and make its tables where there are none.

    Args:
        url: of the database.
        patient: whether a server that is away is waited for; it was there for another process.

    Raises:
        UserError: there is no such database, driver or permission, or it is damaged.
    """
    kind = ""
    try:
        parsed = sqlalchemy.make_url(url)
        kind = parsed.get_backend_name()
        if kind not in _EXAMPLES:
            raise ValueError(f"{kind} is neither postgresql nor sqlite")
        if kind == "sqlite" and not (parsed.database and Path(parsed.database).parent.is_dir()):
            raise ValueError("names no file in a folder that is there")
        # Many processes may write one SQLite file: wait for one another instead of failing.
        connect = {"timeout": 60} if kind == "sqlite" else {}
        if parsed.get_driver_name().startswith("psycopg"):
            connect = {"connect_timeout": 10}
        engine = _explained(sqlalchemy.create_engine(parsed, connect_args=connect))

        def open_one() -> PatientStorage:
            with alone(engine):  # two that make the same tables would disturb each other
                _check_tables(engine)
                return PatientStorage(url, connect)

        storage = Patience()(open_one) if patient else open_one()
        engine.dispose()
        return storage
    except StorageDamagedError:
        raise
    except ImportError as error:
        raise UserError(
            f"--storage {without_password(url)}: {error}; for PostgreSQL: pip install "
            "'psycopg[binary]', and a URL that begins with postgresql+psycopg://"
        ) from error
    except RuntimeError as error:  # Optuna's own check of its tables' version
        reason = " ".join(str(error).replace("$STORAGE_URL", without_password(url)).split())
        raise UserError(f"--storage {without_password(url)}: {reason}") from error
    except (*STORAGE_ERRORS, OSError, ValueError) as error:
        raise UserError(
            f"--storage {without_password(url)}: {storage_reason(error)}; expected "
            f"{_EXAMPLES.get(kind) or ', or '.join(_EXAMPLES.values())}"
        ) from error


def storage_reason(error: Exception) -> str:
    """A database's message in a line."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__:
        error = error.__cause__  # type: ignore[assignment]
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]


def without_password(text: str) -> str:
    """A URL, or an option with one, that may be shown."""
    text = re.sub(r"((?:://|^(?!.*://))[^:/@]*):.*@", r"\1:***@", text, flags=re.DOTALL)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", text)


@contextmanager
def alone(engine: sqlalchemy.Engine) -> Iterator[None]:
    """Wait until no other process is in here with this database, on any machine that shares it.

    A process that dies lets the next one in, and so does one whose connection is lost.

    Raises:
        StorageAway: it was lost, at the latest at the end of the block.
    """
    if engine.url.get_backend_name() == "sqlite":
        with FileLock(f"{engine.url.database}.lock"):
            yield
        return
    with engine.connect() as connection:
        # A machine that is switched off in here says no farewell.
        connection.execute(
            sqlalchemy.text("SET LOCAL idle_in_transaction_session_timeout = '10min'")
        )
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(hashtext('studies'))"))
        yield


def server_uptime(engine: sqlalchemy.Engine) -> float | None:
    """Seconds since a server was started; None where the database is a file."""
    if engine.name != "postgresql":
        return None
    with engine.connect() as connection:
        age = "SELECT extract(epoch FROM now() - pg_postmaster_start_time())"
        return float(connection.execute(sqlalchemy.text(age)).scalar_one())


def _explained(engine: sqlalchemy.Engine) -> sqlalchemy.Engine:
    """The engine, with errors of this module for servers that are away and damaged files."""
    sqlalchemy.event.listen(engine, "handle_error", _explain)
    return engine


def _explain(context: ExceptionContext) -> None:
    error = context.original_exception
    driver = context.dialect.loaded_dbapi
    if not isinstance(error, driver.Error):  # an interruption, say
        return
    if context.dialect.name == "postgresql":
        refused = context.connection is None and isinstance(error, driver.OperationalError)
        if context.is_disconnect or refused:
            raise StorageAway(storage_reason(error)) from error
    elif context.engine is not None and (
        getattr(error, "sqlite_errorcode", 0) & 0xFF
        in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        or re.match("no such (table|column)|table .* has no column|Could not decode", str(error))
    ):
        raise _damaged(context.engine.url, storage_reason(error)) from error


def _check_tables(engine: sqlalchemy.Engine) -> None:
    """Refuse a database that has lost a table: Optuna would make it anew, empty.

    Raises:
        StorageDamagedError: names the table.
    """
    wanted = set(models.BaseModel.metadata.tables)
    with engine.connect() as connection:
        there = wanted & set(sqlalchemy.inspect(connection).get_table_names())
        lost = sorted(wanted - there)
        # Where a process died while it made them, all of them are empty.
        if lost and any(
            connection.execute(sqlalchemy.text(f"SELECT 1 FROM {name} LIMIT 1")).first()
            for name in there
        ):
            raise _damaged(engine.url, f"there is no table {', '.join(lost)}")


def _damaged(url: sqlalchemy.URL, reason: str) -> StorageDamagedError:
    reason = reason.strip().partition("\n")[0][:200]
    if url.get_backend_name() != "sqlite":
        shown = url.render_as_string(hide_password=True)
        return StorageDamagedError(
            f"--storage {shown}: {reason}: the database has lost a part of the study; restore it "
            "from a backup, or choose another --name"
        )
    file = as_typed(Path(str(url.database)))
    # Not .recover, which the sqlite3 of some distributions has not; a dump of a damaged file ends
    # by taking back what it could read.
    quoted = shlex.quote(file)
    return StorageDamagedError(
        f"{file}: {reason}: the file is damaged and left as it is, and so are the report and the "
        f"CSV of its study; to go on with what can be read: mv {quoted} {quoted}.damaged && "
        f"sqlite3 {quoted}.damaged .dump | sed 's/^ROLLBACK.*/COMMIT;/' | sqlite3 {quoted} ; or "
        "choose another --name"
    )
