"""The embedded broker: one server for all who use it, there as long as any of them; when it dies nothing is lost."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import redis
from kombu import Connection

from handbell.embedded.broker import MAX_SOCKET_PATH_BYTES, EmbeddedBroker
from handbell.embedded.server import BrokerServer
from handbell.errors import BrokerUnavailable
from tests.servers import wait_for
from tests.system import ROOT, left_running


class User:
    """A process that uses the broker in `folder` until it is told to leave."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.broker_user", str(folder), *options],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def wait(self) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline() == "attached\n"

    def leave(self) -> None:
        self.process.communicate()


Use = Callable[..., User]


@pytest.fixture
def use(short_folder: Path) -> Iterator[Use]:
    """Starts processes that use a broker; afterwards they leave, and nothing of it is left running."""
    with ExitStack() as stack:
        stack.callback(wait_for, lambda: not left_running(short_folder), f"nothing runs in {short_folder}", 10)

        def start(folder: Path = short_folder, *options: str) -> User:
            user = User(folder, *options)
            stack.callback(user.leave)
            return user

        yield start


def started(use: Use, folder: Path) -> tuple[EmbeddedBroker, User]:
    user = use(folder)
    user.wait()
    return EmbeddedBroker(folder), user


def valkeys(folder: Path) -> list[psutil.Process]:
    return processes("valkey-server", str(folder))


def broker_servers(folder: Path) -> list[psutil.Process]:
    return processes("-m handbell.embedded.server", str(folder))


def processes(*words: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if all(word in line for word in words) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def client(broker: EmbeddedBroker) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(broker.socket_path)) as found:
        yield found


# --- Coming and going --------------------------------------------------------------------------------------------


def test_several_processes_that_attach_at_once_share_one_server(use: Use, short_folder: Path) -> None:
    users = [use() for _ in range(4)]
    for user in users:
        user.wait()

    assert EmbeddedBroker(short_folder).answers()
    assert len(valkeys(short_folder)) == 1
    wait_for(lambda: len(broker_servers(short_folder)) == 1, "one process runs it", 5)


def test_the_broker_ends_after_its_last_user_and_not_before_and_keeps_what_it_was_given(
    use: Use, short_folder: Path
) -> None:
    broker, first = started(use, short_folder)
    _, second = started(use, short_folder)
    (server,) = valkeys(short_folder)

    first.leave()
    with client(broker) as connection:
        connection.rpush("messages", "kept")
    second.process.kill()
    wait_for(lambda: not left_running(short_folder), "the server and the process that runs it have ended", 5)
    assert not server.is_running()
    assert not broker.answers()
    started(use, short_folder)
    with client(broker) as connection:
        assert connection.lrange("messages", 0, -1) == [b"kept"]


def test_a_forked_process_is_a_user_of_its_own(use: Use, short_folder: Path) -> None:
    parent = use(short_folder, "--fork")
    parent.wait()
    parent.process.wait()  # the fork still reads what the parent was given to read
    (broker_server,) = broker_servers(short_folder)

    with client(EmbeddedBroker(short_folder)) as connection:
        assert connection.ping()
    assert broker_server.is_running()


def test_a_killed_server_comes_back_with_what_was_acknowledged(use: Use, short_folder: Path) -> None:
    broker, _ = started(use, short_folder)
    with client(broker) as connection:
        for number in range(100):
            connection.rpush("messages", number)
        durability = connection.config_get("append*")
        assert (durability["appendonly"], durability["appendfsync"]) == ("yes", "everysec")
    (server,) = valkeys(short_folder)

    server.send_signal(signal.SIGKILL)
    wait_for(lambda: not server.is_running() and broker.answers(), "another server answers", 10)
    with client(broker) as connection:
        assert connection.lrange("messages", 0, -1) == [str(number).encode() for number in range(100)]
    assert "The broker ended unexpectedly (killed by signal 9, SIGKILL)" in broker.log.read_text()


def test_a_server_ends_with_the_process_that_runs_it_and_the_next_user_starts_another(
    use: Use, short_folder: Path
) -> None:
    broker, _ = started(use, short_folder)
    with client(broker) as connection:
        connection.rpush("messages", "kept")
    (broker_server,) = broker_servers(short_folder)

    broker_server.send_signal(signal.SIGKILL)
    wait_for(lambda: not valkeys(short_folder), "the server is gone", 5)
    started(use, short_folder)
    with client(broker) as connection:
        assert connection.lrange("messages", 0, -1) == [b"kept"]


def test_a_server_that_outlived_the_process_that_ran_it_is_replaced_and_not_left_running(
    use: Use, short_folder: Path
) -> None:
    broker = EmbeddedBroker(short_folder)
    broker.prepare()
    orphan = subprocess.Popen(BrokerServer(broker, stand_by=False)._server_command())
    try:
        wait_for(broker.answers, "the server answers", 10)
        with client(broker) as connection:
            connection.rpush("messages", "kept")

        started(use, short_folder)
        assert orphan.wait(10) == 0
    finally:
        orphan.kill()
        orphan.wait()
    wait_for(broker.answers, "another server answers", 10)
    with client(broker) as connection:
        assert connection.lrange("messages", 0, -1) == [b"kept"]


def test_a_second_process_that_would_run_the_server_waits_for_its_turn_only_if_told_to(
    use: Use, short_folder: Path
) -> None:
    broker, _ = started(use, short_folder)

    at_once = subprocess.run(broker.server_command(stand_by=False), cwd=ROOT, check=False, timeout=10)
    assert at_once.returncode == 0
    waiting = subprocess.Popen(broker.server_command(stand_by=True), cwd=ROOT)
    try:
        (broker_server,) = [found for found in broker_servers(short_folder) if found.pid != waiting.pid]
        broker_server.send_signal(signal.SIGKILL)
        wait_for(lambda: psutil.Process(waiting.pid).children(), "the one that waited runs a server", 10)
        wait_for(broker.answers, "it answers", 10)
        waiting.terminate()
        assert waiting.wait(10) == 0
    finally:
        waiting.kill()
        waiting.wait()


def test_a_broker_that_cannot_start_is_said_in_a_sentence(short_folder: Path) -> None:
    (short_folder / "appendonlydir").write_text("in the way")
    broker = EmbeddedBroker(short_folder)
    try:
        with pytest.raises(
            BrokerUnavailable, match=r"did not start within 1 s\. Look into .*/log, or set CELERY_BROKER"
        ):
            broker.attach(0.6)
        assert str(broker.log) == f"{short_folder}/log"
    finally:
        broker.release()
    wait_for(lambda: not left_running(short_folder), "nothing is left running", 10)


# --- When it is taken away ----------------------------------------------------------------------------------------


@pytest.fixture
def attached(use: Use, short_folder: Path) -> Iterator[EmbeddedBroker]:
    """A broker that this process uses; the fixture `use` looks that nothing is left of it."""
    broker = EmbeddedBroker(short_folder)
    broker.attach()
    yield broker
    broker.release()


def test_a_socket_file_that_is_removed_is_there_again_with_what_was_acknowledged(attached: EmbeddedBroker) -> None:
    with client(attached) as connection:
        connection.rpush("messages", "kept")
    attached.socket_path.unlink()

    wait_for(attached.answers, "it answers again", 20)
    with client(attached) as connection:
        assert connection.lrange("messages", 0, -1) == [b"kept"]
    assert len(valkeys(attached.directory)) == 1


def test_a_folder_that_is_removed_is_made_again_at_the_next_call_and_the_former_server_ends(
    attached: EmbeddedBroker,
) -> None:
    (former,) = valkeys(attached.directory)
    shutil.rmtree(attached.directory)

    attached.attach()
    wait_for(lambda: not former.is_running(), "the former server has ended", 10)
    wait_for(attached.answers, "it answers", 10)
    wait_for(lambda: len(broker_servers(attached.directory)) == 1, "one process runs it", 10)
    assert len(valkeys(attached.directory)) == 1


def test_a_broker_whose_process_was_killed_is_started_again_at_the_next_call(attached: EmbeddedBroker) -> None:
    with client(attached) as connection:
        connection.rpush("messages", "kept")
    (server,), (process,) = valkeys(attached.directory), broker_servers(attached.directory)
    process.kill()
    wait_for(lambda: not server.is_running(), "the server has ended with it", 10)

    attached.attach()
    with client(attached) as connection:
        assert connection.lrange("messages", 0, -1) == [b"kept"]


def test_a_server_that_outlives_its_process_is_used_for_as_long_as_it_lives(attached: EmbeddedBroker) -> None:
    (process,) = broker_servers(attached.directory)
    process.kill()
    wait_for(lambda: not valkeys(attached.directory), "the server has ended with it", 10)
    orphan = subprocess.Popen(BrokerServer(attached, stand_by=False)._server_command())
    try:
        wait_for(attached.answers, "the server answers", 10)
        attached.attach()
        assert orphan.poll() is None
        assert not broker_servers(attached.directory)
    finally:
        orphan.kill()
        orphan.wait()

    attached.attach()
    assert attached.answers()
    assert len(broker_servers(attached.directory)) == 1


# --- When its file is damaged ------------------------------------------------------------------------------------


def write_messages(use: Use, folder: Path) -> EmbeddedBroker:
    """A broker that has kept messages in its file, and runs no longer."""
    broker, user = started(use, folder)
    with client(broker) as connection:
        for number in range(100):
            connection.rpush("messages", number)
    user.leave()
    wait_for(lambda: not left_running(folder), "the broker has ended", 10)
    return broker


def damage(file: Path, position: int) -> bytes:
    with file.open("r+b") as opened:
        opened.seek(position)
        opened.write(b"XXXXXXXX")
    return file.read_bytes()


def test_a_damaged_file_is_kept_and_repaired_and_what_came_before_the_damage_is_there(
    use: Use, short_folder: Path
) -> None:
    broker = write_messages(use, short_folder)
    damaged = damage(short_folder / "appendonlydir" / "appendonly.aof.1.incr.aof", 1500)

    started(use, short_folder)
    with client(broker) as connection:
        messages = connection.lrange("messages", 0, -1)
    assert 0 < len(messages) < 100
    assert messages == [str(number).encode() for number in range(len(messages))]
    (kept,) = (short_folder / "appendonlydir").glob("appendonly.aof.1.incr.aof.damaged-20??-*Z")
    assert kept.read_bytes() == damaged
    assert f"was cut off; the file as it was is kept as {kept}." in broker.log.read_text()


def test_what_cannot_be_repaired_is_left_alone_and_ends_the_process_that_runs_the_server_with_a_sentence(
    use: Use, short_folder: Path
) -> None:
    broker = write_messages(use, short_folder)
    base = short_folder / "appendonlydir" / "appendonly.aof.1.base.rdb"
    damaged = damage(base, 30)
    files = set(base.parent.iterdir())

    broker.hold()  # a user is there
    try:
        command = broker.server_command(stand_by=False)
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    finally:
        broker.release()
    assert ended.returncode == 1
    pauses = re.findall(r"starting it again in (\d\.\d) s", ended.stdout)
    assert pauses == ["0.2", "0.4", "0.8", "1.6", "3.2"]
    assert f"move {base.parent} to another place and start it again" in ended.stderr
    assert base.read_bytes() == damaged
    assert set(base.parent.iterdir()) == files


# --- Where it is -------------------------------------------------------------------------------------------------


def test_the_socket_is_in_the_folder_if_its_path_is_short_enough(short_folder: Path) -> None:
    broker = EmbeddedBroker(short_folder)

    assert broker.socket_path == short_folder / "valkey.sock"
    assert broker.url == f"redis+socket://{short_folder}/valkey.sock"


def test_a_long_folder_gets_a_short_private_one_for_its_socket(use: Use, short_folder: Path) -> None:
    folder = short_folder / ("long" * 30)
    broker, user = started(use, folder)
    try:
        assert broker.answers()
        assert len(os.fsencode(broker.socket_path)) <= MAX_SOCKET_PATH_BYTES
        assert broker.socket_path == EmbeddedBroker(folder).socket_path
        assert broker.socket_path != EmbeddedBroker(short_folder / ("other" * 30)).socket_path
        assert stat.S_IMODE(broker.socket_path.parent.stat().st_mode) == 0o700
        with Connection(broker.url) as connection:
            connection.ensure_connection(max_retries=1)
    finally:
        user.leave()
        wait_for(lambda: not left_running(folder), "the broker is gone", 10)
        broker.socket_path.unlink(missing_ok=True)
        broker.socket_path.parent.rmdir()


def test_a_folder_with_an_odd_name_works_and_nobody_else_can_read_what_is_in_it(use: Use, short_folder: Path) -> None:
    folder = short_folder / "with space, per%41cent; hash#mark?"
    folder.mkdir(mode=0o777)
    broker, _ = started(use, folder)

    with Connection(broker.url) as connection:
        connection.ensure_connection(max_retries=1)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    kept = [broker.socket_path, broker.log, folder / "users.lock", *(folder / "appendonlydir").iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}


def test_a_folder_of_another_user_is_refused(short_folder: Path) -> None:
    foreign = Path("/")
    if os.getuid() == 0:
        foreign = short_folder / "foreign"
        foreign.mkdir()
        os.chown(foreign, 12345, 12345)

    with pytest.raises(BrokerUnavailable, match=rf"{foreign} belongs to another user. Set HANDBELL_DATA_DIR"):
        EmbeddedBroker(foreign).prepare()


def test_a_link_that_another_user_has_put_in_the_way_is_refused(short_folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make a link that belongs to another user")
    mine, link = short_folder / "mine", short_folder / "link"
    mine.mkdir(mode=0o755)
    link.symlink_to(mine)
    os.lchown(link, 12345, 12345)

    with pytest.raises(BrokerUnavailable, match="belongs to another user"):
        EmbeddedBroker(link).prepare()
    assert stat.S_IMODE(mine.stat().st_mode) == 0o755


# --- Whether it answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "answers"),
    [(b"+PONG\r\n", True), (b"-LOADING Valkey is loading the dataset in memory\r\n", False), (b"", False)],
)
def test_only_a_server_that_takes_commands_answers(reply: bytes, answers: bool, short_folder: Path) -> None:
    broker = EmbeddedBroker(short_folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(broker.socket_path))
        assert not broker.answers()  # nobody listens yet
        listener.listen()
        with ThreadPoolExecutor(1) as pool:
            answered = pool.submit(broker.answers)
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(16) == b"PING\r\n"
                connection.sendall(reply)
            assert answered.result() is answers
    assert not broker.answers()  # only the file is left
