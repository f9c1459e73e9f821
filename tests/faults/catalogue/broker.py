"""Brokers that restart, forget, or take no more."""

import shutil
import time
from contextlib import suppress

import amqp
import psutil

from tests.faults.faulting import fault
from tests.faults.ground import Ground
from tests.servers import wait_for

FULL_SECONDS = 8.0


def restart_broker(ground: Ground, *, wipes: bool) -> None:
    if ground.embedded is not None:
        for process in embedded_servers(ground):
            process.kill()
        if wipes:
            shutil.rmtree(ground.embedded.directory / "appendonlydir", ignore_errors=True)
        wait_for(ground.embedded.answers, "the embedded broker runs again")
        return
    server = ground.rabbitmq or ground.valkey
    assert server is not None
    server.stop()
    if wipes:
        for folder in ("data", "appendonlydir"):
            shutil.rmtree(server.folder / folder, ignore_errors=True)
    server.start()


def embedded_servers(ground: Ground) -> list[psutil.Process]:
    assert ground.embedded is not None
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if f"unixsocket:{ground.embedded.socket_path}" in " ".join(process.cmdline()):
                found.append(process)
    return found


@fault("The broker is killed and started again.", quick=True)
def crash_broker(ground: Ground) -> None:
    restart_broker(ground, wipes=False)


@fault("The broker is killed, and all it had is gone.", quick=True)
def wipe_broker(ground: Ground) -> None:
    restart_broker(ground, wipes=True)


@fault("The broker's memory is full.")
def fill_broker(ground: Ground) -> None:
    if ground.rabbitmq is not None:
        ground.rabbitmq.control("set_vm_memory_high_watermark", "0.00001")
        time.sleep(FULL_SECONDS)
        ground.rabbitmq.control("set_vm_memory_high_watermark", "0.6")
        return
    ground.valkey_command("CONFIG", "SET", "maxmemory", "1")
    try:
        time.sleep(FULL_SECONDS)
    finally:
        ground.valkey_command("CONFIG", "SET", "maxmemory", "0")


@fault("The queues are deleted, with all that was in them.")
def delete_queues(ground: Ground) -> None:
    for _ in range(5):
        if ground.rabbitmq is None:
            ground.valkey_command("FLUSHALL")
        else:
            for queue in ("cpu", "serial", "isolated"):
                with suppress(amqp.AMQPError), amqp.Connection(f"127.0.0.1:{ground.rabbitmq.port}") as connection:
                    connection.channel().queue_delete(queue)
        time.sleep(0.3)


@fault("The broker stands still.")
def freeze_broker(ground: Ground) -> None:
    server = ground.rabbitmq or ground.valkey
    processes = server.processes if server else embedded_servers(ground)
    for process in processes:
        process.suspend()
    time.sleep(FULL_SECONDS)
    for process in processes:
        process.resume()


def disturb_doorbells(ground: Ground, how: str, seconds: float) -> None:
    """Have the hook in every process that sends messages do this to them; see `hooks`."""
    path = ground.control / "doorbells"
    path.write_text(how)
    time.sleep(seconds)
    path.unlink()


@fault("Every message is sent twice.", quick=True)
def double_messages(ground: Ground) -> None:
    disturb_doorbells(ground, "double", 6)


@fault("Every third message is lost.")
def drop_messages(ground: Ground) -> None:
    disturb_doorbells(ground, "drop", 6)


@fault("Messages overtake each other.")
def reorder_messages(ground: Ground) -> None:
    disturb_doorbells(ground, "reorder", 6)
