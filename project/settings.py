"""What this site chooses. What differs between machines comes from environment variables: see docs/settings.md."""

from datetime import timedelta
from pathlib import Path

from handbell import settings_from_environment
from project import admin_theme, content_security
from project.environment import Environment, database

BASE_DIR = Path(__file__).resolve().parent.parent
ENV = Environment()

# --- Handbell: every HANDBELL_… setting may be an environment variable -------------------------------------------

HANDBELL_QUEUES = "tasks_app.queues.QUEUES"
globals().update(settings_from_environment())
HANDBELL_DATA_DIR = ENV.folder(
    "HANDBELL_DATA_DIR",
    BASE_DIR / "var",
    "Folder for what is written here: the default database, the embedded broker's data, generated secrets.",
    shown="`var`",
)

# --- Database ----------------------------------------------------------------------------------------------------

DATABASES = {"default": database(ENV, HANDBELL_DATA_DIR / "db.sqlite3")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Celery ------------------------------------------------------------------------------------------------------

if _broker_url := ENV.text(
    "CELERY_BROKER_URL",
    "",
    "The broker: `amqp://…` (RabbitMQ), `redis://…`, `rediss://…` or `redis+socket:///path` (Redis, Valkey).",
    shown="an embedded Valkey",
):
    CELERY_BROKER_URL = _broker_url
if _result_backend := ENV.text(
    "CELERY_RESULT_BACKEND",
    "",
    "Where the results of plain tasks go: the database, or any backend of Celery's, such as `cache+memcached://…` or "
    "`redis://…`, with that backend's guarantees.",
    shown="the database",
):
    CELERY_RESULT_BACKEND = _result_backend
CELERY_TASK_TRACK_STARTED = True  # a task that runs is STARTED for its callers, too
CELERY_TASK_CREATE_MISSING_QUEUES = False  # a misspelt queue is refused at the call
CELERY_TASK_ROUTES = ["tasks_app.queues.route"]
TASKS = {"default": {"BACKEND": "handbell.tasks.HandbellBackend"}}  # of Django 6, or of django-tasks

# --- Security ----------------------------------------------------------------------------------------------------

DEBUG = ENV.boolean("DEBUG", False, "Show Django's error pages. Never on a server that others reach.")
ALLOWED_HOSTS = ENV.names("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"], "The host names this site answers to.")
#: Nothing is configured but the defaults: one machine, one person, trying things out.
DEFAULT_SETUP = not ENV.is_set("CELERY_BROKER_URL") and not ENV.is_set("DATABASE_URL")
SECRET_KEY = ENV.secret_key(HANDBELL_DATA_DIR / "secret_key", may_generate=DEFAULT_SETUP)
HTTPS = ENV.boolean("HTTPS", False, "The site is reached over https, behind a proxy that sets `X-Forwarded-Proto`.")
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^samples/"]  # asked for from behind the proxy, and public
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
PROXY_COUNT = ENV.number(
    "PROXY_COUNT",
    0,
    "How many proxies of yours a request comes through, each of which appends to `X-Forwarded-For`.",
    maximum=10,
)
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
CSRF_TRUSTED_ORIGINS = [f"https://{host}" for host in ALLOWED_HOSTS if HTTPS and host != "*"]
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = content_security.POLICY
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_FAILURE_LIMIT = 5  # of one user from one address
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_USERNAME_CALLABLE = "project.login_attempts.attempted_username"
AXES_CLIENT_IP_CALLABLE = "project.login_attempts.client_address"
AXES_LOCKOUT_TEMPLATE = "registration/locked_out.html"
AXES_DISABLE_ACCESS_LOG = True  # nothing would ever delete it
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

# --- Tasks -------------------------------------------------------------------------------------------------------

RESULTS_KEEP_DAYS = ENV.number(
    "RESULTS_KEEP_DAYS", 30, "Results older than this many days are deleted.", minimum=1, maximum=36500
)
STARTS_PER_MINUTE_PER_USER = ENV.number(
    "STARTS_PER_MINUTE_PER_USER", 30, "How often a user may start work from the pages.", minimum=1, maximum=60_000
)
STARTS_PER_MINUTE = ENV.number("STARTS_PER_MINUTE", 120, "The same, for all users together.", minimum=1, maximum=60_000)
WEB_ADDRESS = ENV.web_address()
FETCH_ALLOWED_HOSTS = ENV.names(
    "FETCH_ALLOWED_HOSTS",
    [],
    "Hosts (`name` or `name:port`) that tasks may fetch although their addresses are not public, or this site's own.",
)
FETCH_TIMEOUT = ENV.number("FETCH_TIMEOUT", 10, "Seconds after which a fetch is given up.", minimum=1, maximum=600)
FETCH_MAX_KB = ENV.number(
    "FETCH_MAX_KB", 2048, "The largest page a task fetches, in KiB.", minimum=1, maximum=1_048_576
)

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
    "axes",
    "csp",
    "django_celery_results",
    "django_celery_beat",
    "handbell",
    "project.apps.ProjectConfig",
    "tasks_app.apps.TasksAppConfig",
]
MIDDLEWARE = [
    "project.content_security.ContentSecurityPolicy",
    "project.health.answer_health_checks",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
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
UNFOLD = admin_theme.UNFOLD
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {
        "handlers": ["console"],
        "level": ENV.choice("LOG_LEVEL", "INFO", "How much is logged:", ("DEBUG", "INFO", "WARNING", "ERROR")),
    },
}
