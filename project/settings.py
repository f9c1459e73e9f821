"""All settings. What differs between machines comes from environment variables; docs/settings.md lists them."""

import secrets
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import dj_database_url
from django.templatetags.static import static
from django.urls import reverse_lazy

from project.embedded import EmbeddedBroker
from project.environment import Environment
from tasks_app.queues import DEFAULT, DEFAULT_PRIORITY, QUEUES, declarations
from tasks_app.secrets import kept_secret

BASE_DIR = Path(__file__).resolve().parent.parent
ENV = Environment()

# --- Where things are kept ---------------------------------------------------------------------------------------

VAR_DIR = Path(
    ENV.text(
        "VAR_DIR",
        str(BASE_DIR / "var"),
        "Folder for what the project writes: the default database, the embedded broker's data, generated secrets.",
        shown="var",
    )
).resolve()


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        ENV.refuse(
            "VAR_DIR",
            f"is {folder}, which cannot be written to ({error.strerror})",
            "Set it to a folder you may write to.",
        )
        return False
    return True


VAR_DIR_WRITABLE = _writable(VAR_DIR)

# --- Database ----------------------------------------------------------------------------------------------------

_database_url = ENV.text(
    "DATABASE_URL",
    f"sqlite:///{quote(str(VAR_DIR / 'db.sqlite3'))}",
    "The database: `postgres://user:password@host:5432/name`, or `sqlite:///path`.",
    shown="SQLite in `VAR_DIR`",
)


def _database(url: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] = dict(dj_database_url.parse(url))
    except ValueError:
        config = {}
    engine = config.get("ENGINE")
    if engine == "django.db.backends.sqlite3" and config["NAME"] != ":memory:":  # each process would have its own
        # Readers never wait (WAL); a writer takes the write lock at BEGIN and waits for it up to `timeout` seconds,
        # instead of failing half-way when two transactions upgrade from reading to writing.
        config["OPTIONS"] = {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
        }
        return config
    if engine == "django.db.backends.postgresql" and (config["NAME"] or "service" in config.get("OPTIONS", {})):
        # A server that is cut off is noticed: a connection that hears nothing for half a minute is given up.
        kept = {"connect_timeout": 2, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}
        config["OPTIONS"] = {**kept, "tcp_user_timeout": 30_000, **config.get("OPTIONS", {})}
        return config
    ENV.refuse(
        "DATABASE_URL",
        "is not the address of a PostgreSQL or SQLite database",
        "Set it to postgres://user:password@host:5432/name, or unset it to use SQLite.",
    )
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}


DATABASES = {"default": _database(_database_url)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Broker ------------------------------------------------------------------------------------------------------

EMBEDDED_BROKER = EmbeddedBroker(VAR_DIR / "broker")
CELERY_BROKER_URL = ENV.text(
    "CELERY_BROKER_URL",
    EMBEDDED_BROKER.url,
    "The broker: `amqp://…` (RabbitMQ), `redis://…`, `rediss://…` or `redis+socket:///path` (Redis, Valkey).",
    shown="an embedded Valkey",
)
EMBEDDED_BROKER_USED = EMBEDDED_BROKER.url == CELERY_BROKER_URL
BROKER_SCHEMES = ("amqp", "amqps", "pyamqp", "redis", "rediss", "redis+socket")


def _is_broker(url: str) -> bool:
    scheme, slashes, rest = url.partition("://")
    try:
        address = urlsplit(f"//{rest}")
        port_is_right = address.port != 0
    except ValueError:
        return False
    database = address.path.strip("/") if scheme in {"redis", "rediss"} else ""
    return scheme in BROKER_SCHEMES and bool(slashes) and port_is_right and (not database or database.isdecimal())


if not all(_is_broker(url) for url in CELERY_BROKER_URL.split(";")):
    ENV.refuse(
        "CELERY_BROKER_URL",
        "is not the address of a broker",
        "Set it to amqp://user:password@host:5672/vhost or redis://host:6379/0, or unset it to use the embedded one.",
    )

# --- Security ----------------------------------------------------------------------------------------------------

#: Nothing is configured but the defaults: one machine, one person, trying things out.
DEFAULT_SETUP = EMBEDDED_BROKER_USED and not ENV.is_set("DATABASE_URL")

DEBUG = ENV.boolean("DEBUG", False, "Show Django's error pages. Never on a server that others reach.")
ALLOWED_HOSTS = ENV.names("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"], "The host names this site answers to.")

FLOWER_BASIC_AUTH = ENV.text(
    "FLOWER_BASIC_AUTH",
    "",
    "Flower's `user:password`. Flower listens on 127.0.0.1 only.",
    shown="`admin` and a generated password",
)
if FLOWER_BASIC_AUTH and ":" not in FLOWER_BASIC_AUTH:
    ENV.refuse("FLOWER_BASIC_AUTH", "has no colon in it", "Set it to user:password.")
FLOWER_PASSWORD_FILE = VAR_DIR / "flower_password"

SECRET_KEY = ENV.text(
    "SECRET_KEY",
    "",
    "Signs sessions and links. Required as soon as `DATABASE_URL` or `CELERY_BROKER_URL` is set.",
    shown="generated, for the default set-up only",
)
if not SECRET_KEY:
    if not DEFAULT_SETUP:
        ENV.refuse(
            "SECRET_KEY",
            "is not set, and a generated one is for the default set-up only",
            "Set it to at least 50 random characters: python -c 'import secrets; print(secrets.token_urlsafe(50))'",
        )
    kept = DEFAULT_SETUP and VAR_DIR_WRITABLE
    SECRET_KEY = kept_secret(VAR_DIR / "secret_key") if kept else secrets.token_urlsafe(50)

HTTPS = ENV.boolean("HTTPS", False, "The site is reached over https, behind a proxy that sets `X-Forwarded-Proto`.")
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^samples/"]  # asked for from behind the proxy, and public
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
CSRF_TRUSTED_ORIGINS = [f"https://{host}" for host in ALLOWED_HOSTS if HTTPS and host != "*"]
X_FRAME_OPTIONS = "DENY"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

# --- Celery ------------------------------------------------------------------------------------------------------

QUEUE_CONCURRENCY = {
    queue.name: ENV.number(
        queue.variable,
        queue.concurrency,
        f"Processes (or threads) of the worker for queue `{queue.name}`. {queue.purpose}",
        least=1,
        most=1000,
        shown=queue.shown,
    )
    if queue.adjustable
    else queue.concurrency
    for queue in QUEUES
}

CELERY_TASK_QUEUES = declarations()
CELERY_TASK_DEFAULT_QUEUE = DEFAULT.name
CELERY_TASK_CREATE_MISSING_QUEUES = False  # a misspelt queue is refused at the call
CELERY_TASK_ROUTES = ["tasks_app.queues.route"]
CELERY_TASK_DEFAULT_PRIORITY = DEFAULT_PRIORITY
CELERY_WORKER_PREFETCH_MULTIPLIER = 1  # a message taken in advance would hold back one of higher priority

# --- Serial lanes -------------------------------------------------------------------------------------------------

SERIAL_LANES = ENV.number(
    "SERIAL_LANES",
    4,  # one worker takes them in turn: more lanes are for more workers
    "Lanes of a new database; `manage.py lanes resize` changes their number later.",
    least=1,
    most=1024,
)
SERIAL_FROZEN_SECONDS = ENV.number(
    "SERIAL_FROZEN_SECONDS",
    30,
    "PostgreSQL takes a lane from a worker that is silent for this long in the middle of a batch.",
    least=1,
    most=3600,
)
SERIAL_LEASE_SECONDS = ENV.number(
    "SERIAL_LEASE_SECONDS",
    60,
    "An external operation is run again if its worker has not been heard of for this long.",
    least=1,
    most=86400,
)
SERIAL_UNKNOWN_TASKS = ENV.text(
    "SERIAL_UNKNOWN_TASKS",
    "fail",
    "What becomes of an operation whose task this deployment does not have: `fail`, or `wait` for a newer worker.",
)
if SERIAL_UNKNOWN_TASKS not in {"fail", "wait"}:
    ENV.refuse("SERIAL_UNKNOWN_TASKS", f"is {SERIAL_UNKNOWN_TASKS!r}", "Set it to fail or wait.")

# --- Parallel jobs ------------------------------------------------------------------------------------------------

PARALLEL_CHUNK_MS = ENV.number(
    "PARALLEL_CHUNK_MS",
    1000,  # claiming and completing one takes about 20 ms, so this leaves 98 % for the items
    "How long a chunk of a job should take, in milliseconds, unless the job says otherwise.",
    least=1,
    most=3_600_000,
)
PARALLEL_LEASE_SECONDS = ENV.number(
    "PARALLEL_LEASE_SECONDS",
    15,
    "A chunk goes to another worker if its owner, on another machine or frozen, is silent for this long; a source that "
    "is silent for this long is interrupted.",
    least=3,
    most=3600,
)

# --- Isolated launches --------------------------------------------------------------------------------------------

LAUNCH_CONCURRENCY = ENV.number(
    "LAUNCH_CONCURRENCY",
    32,
    "Launches that run at the same time, per worker of the queue `isolated`.",
    least=1,
    most=5000,
)
LAUNCH_MEMORY_MB = ENV.number(
    "LAUNCH_MEMORY_MB",
    512,
    "What a launch and all it starts may use in MiB, unless its task says otherwise.",
    least=16,
    most=16_777_216,
)
LAUNCH_OUTPUT_KB = ENV.number(
    "LAUNCH_OUTPUT_KB",
    64,
    "How much is kept of what a launch prints, in KiB, of its standard output and its standard error each.",
    least=1,
    most=16_384,
)
LAUNCH_LEASE_SECONDS = ENV.number(
    "LAUNCH_LEASE_SECONDS",
    15,
    "A launch is lost if its supervisor has not been heard of for this long.",
    least=1,
    most=86400,
)
LAUNCH_STOP_SECONDS = ENV.number(
    "LAUNCH_STOP_SECONDS",
    4,
    "When a worker is told to stop, its launches may go on for this long; then they are ended and recorded as lost.",
    most=86400,
)

CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]

PLAIN_LEASE_SECONDS = ENV.number(
    "PLAIN_LEASE_SECONDS",
    15,
    "A plain task runs again if its worker, on another machine or frozen, has not been heard of for this long.",
    least=1,
    most=86400,
)
PLAIN_STOP_SECONDS = ENV.number(
    "PLAIN_STOP_SECONDS",
    4,
    "When a worker is told to stop, its plain tasks may go on for this long; then they are given back, and run again "
    "elsewhere.",
    most=86400,
)
CELERY_WORKER_LOST_WAIT = 1.0  # seconds that a worker waits for the result of a child that is gone, in case it left one
DATABASE_BACKEND = "tasks_app.plain.results:DatabaseBackend"
CELERY_RESULT_BACKEND = ENV.text(
    "CELERY_RESULT_BACKEND",
    DATABASE_BACKEND,
    "Where the results of plain tasks go: the database, or any backend of Celery's, such as `cache+memcached://…` or "
    "`redis://…`, with that backend's guarantees.",
    shown="the database",
)
CELERY_RESULT_EXTENDED = True
CELERY_RESULT_EXPIRES = None  # `delete_old_results` does this, on a schedule that the admin can edit
CELERY_TASK_TRACK_STARTED = CELERY_RESULT_BACKEND != DATABASE_BACKEND  # there, claiming a call says so
RESULTS_KEEP_DAYS = ENV.number(
    "RESULTS_KEEP_DAYS", 30, "Results older than this many days are deleted.", least=1, most=36500
)

CELERY_BEAT_SCHEDULER = "tasks_app.plain.scheduler:DatabaseScheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 2  # seconds until an edited schedule takes effect
CELERY_TIMEZONE = "UTC"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False

# A broker that does not answer is given up on quickly, so that a page can say so.
CELERY_BROKER_CONNECTION_TIMEOUT = 2
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # workers wait for their broker as long as it takes
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5}
if CELERY_BROKER_URL.startswith("redis"):
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
        "priority_steps": list(range(10)),
        "visibility_timeout": 12 * 3600,
        "socket_connect_timeout": 2,
        "socket_timeout": 3,  # longer than the one second for which a worker waits for a message at a time
        "socket_keepalive": True,
    }
else:
    CELERY_BROKER_TRANSPORT_OPTIONS = {"confirm_publish": True, "confirm_timeout": 2}

# --- Fetching pages ----------------------------------------------------------------------------------------------

FETCH_ALLOWED_HOSTS = ENV.names(
    "FETCH_ALLOWED_HOSTS",
    [],
    "Hosts (`name` or `name:port`) that tasks may fetch although their addresses are not public. "
    "`manage.py up` adds its own web server.",
)
FETCH_TIMEOUT = ENV.number("FETCH_TIMEOUT", 10, "Seconds after which a fetch is given up.", least=1, most=600)
FETCH_MAX_KB = ENV.number("FETCH_MAX_KB", 2048, "The largest page a task fetches, in KiB.", least=1, most=1_048_576)

# --- Django ------------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "django_celery_results",
    "django_celery_beat",
    "project.apps.ProjectConfig",
    "tasks_app.apps.TasksAppConfig",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "project.urls"
WSGI_APPLICATION = "project.wsgi.application"
ASGI_APPLICATION = "project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "project" / "static"]
WHITENOISE_USE_FINDERS = True  # files are served as installed: there is no collect step to forget
SILENCED_SYSTEM_CHECKS: list[str] = []

UNFOLD = {
    "SITE_TITLE": "Tasks",
    "SITE_HEADER": "Tasks",
    "SITE_URL": reverse_lazy("home"),
    "SITE_ICON": lambda request: static("favicon.svg"),
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("favicon.svg")}],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": True,
    "STYLES": [lambda request: static("admin.css")],
    "SIDEBAR": {"show_search": False, "navigation": "tasks_app.admin.navigation.sidebar"},
    "BORDER_RADIUS": "6px",
    "COLORS": {
        "primary": {
            "50": "#eff6ff",
            "100": "#dbeafe",
            "200": "#bfdbfe",
            "300": "#93c5fd",
            "400": "#60a5fa",
            "500": "#3b82f6",
            "600": "#1d4ed8",
            "700": "#1e40af",
            "800": "#1e3a8a",
            "900": "#172f6e",
            "950": "#172554",
        },
    },
}

LOG_LEVEL = ENV.text("LOG_LEVEL", "INFO", "How much is logged: DEBUG, INFO, WARNING or ERROR.")
if LOG_LEVEL not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
    ENV.refuse("LOG_LEVEL", f"is {LOG_LEVEL!r}", "Set it to DEBUG, INFO, WARNING or ERROR.")
    LOG_LEVEL = "INFO"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
}
