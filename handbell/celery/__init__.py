"""Every place where Handbell extends Celery, one file each: what it extends, and what of the library it relies on.

Checked with celery 5.7, kombu 5.7, billiard 4.3, django-celery-results 2.6 and django-celery-beat 2.9.

app.py            celery.Celery. `amqp_cls` and `task_cls`; `send_task`, which every call and every canvas goes through;
                  `producer_or_acquire`, `connection_for_read`, `connection_for_write`, `_get_backend`,
                  `create_task_cls`, `_task_from_fun`, `register_task`; `_load_config`, after which `conf` is complete.
configuration.py  The defaults of its settings. `conf.defaults[-1]` are Celery's own, a copy for each app;
                  celery.app.utils.Settings: `maps`, `prefix`, `_to_keys`;
                  celery/fixups/django.py keeps connections if `CELERY_DB_REUSE_MAX` is set; kombu's
                  `TRANSPORT_ALIASES`.
amqp.py           celery.app.amqp.AMQP. `create_task_message`, `as_task_v2`, and what `saferepr` makes;
                  `_event_dispatcher`; `producer_pool`; `_producer_pool` is None after a fork;
                  `_retry_publish`, with which celery/app/trace.py calls what is linked or chained to a task.
calls.py          What a call does. The options that `Task.apply_async` and canvas give to `send_task`;
                  `current_worker_task`; `Task.retry` calls the task with its own id.
options.py        The options of a call: which there are, and how Celery reads them. `maybe_iso8601`.
confirmation.py   What a message may say. `Context.update`; `Ignore`.
call_run.py       What belongs to a run. celery/app/trace.py gives one and the same request to the task and to the
                  backend.
producer.py       kombu.Producer, while Celery publishes. `publish`, `connection`, `_reraise_as_library_errors`,
                  `serializer`, `compression`.
task.py           celery.contrib.django.task.DjangoTask. celery/app/trace.py calls `__call__` where a task has its own;
                  `request.called_directly`, `request.is_eager`; attributes of a request stay while it runs; `Ignore`
                  and `Reject`; `on_replace`, with which `replace` ends.
request.py        celery.worker.request.Request. `on_timeout`, `on_failure`, `acknowledge`, `_already_cancelled`,
                  `_already_revoked`, `worker_pid`; `celery.worker.state.task_ready` and `should_terminate`.
batch.py          What a worker's process does with a message. `celery.app.trace.trace_task`, and what it returns; the
                  signal `celeryd_after_setup`, and the worker's `time_limit`, `soft_time_limit`, `max_concurrency`.
batch_events.py   What a worker says about a task. `Dispatcher` with its `buffer_group` and `_outbound_buffer`.
control.py        The remote control commands `revoke`, `terminate`, `rate_limit`, `time_limit`, `active` and
                  `query_task`. `control_command` and `inspect_command`; these commands of Celery's own.
backend.py        django_celery_results' DatabaseBackend. `mark_as_done`, `mark_as_failure`, `mark_as_revoked`,
                  `_store_result`, `_get_meta_from_request`, `_get_extended_properties`, `encode_content`,
                  `encode_result`, `current_task_children`, `_call_task_errbacks`, `_errback_arity_greater`,
                  `_fail_chain`, `mark_as_retry`; the columns of `TaskResult`. celery/app/trace.py says STARTED before
                  it calls the task.
read_results.py   The same, for whoever asks. `wait_for`, `get_many` with `supports_native_join`, `_get_task_meta_for`,
                  `decode_content`, `meta_from_decoded`, `task_result_exists`, `_ensure_not_eager`, `_cache`; what
                  `TaskResult.as_dict` gives.
status.py         The same states in our words. `TaskResult.status`.
chords.py         The end of a chord in that backend. `apply_chord`, `add_to_chord`, `on_chord_part_return`,
                  `ChordCounter`, `chord_error_from_stack`, `decode_content`, `exception_to_python`.
scheduler.py      django_celery_beat's DatabaseScheduler and ModelEntry. `Entry`, `Changes`, `setup_schedule`,
                  `schedule_changed`, `sync`, `tick`, `is_due`, `apply_async`, `_initial_read`, `_heap`,
                  `_last_timestamp`, `_default_now`.
async_run.py      `run` of a task that is an `async def` function. `celery._state._task_stack`, `Task.request_stack`,
                  and billiard's handler of the soft time limit, which is replaced while a coroutine runs.
django_tasks.py   Nothing but shared tasks: they run the tasks of Django's own framework.
django_backend.py The options of `apply_async`: `argsrepr`, `shadow`, `eta`, `priority`, `time_limit`; `self.retry`.
connections.py    The Django fixup. The signals `task_prerun` and `task_failure`.
worker.py         A worker's start and stop. The signals `worker_init`, `worker_process_init`, `worker_ready`,
                  `worker_shutting_down` (sent in the handler of the signal) and `worker_shutdown`;
                  `amqp.queues.consume_from`; `pool._pool._pool`.
consumer.py       celery.worker.consumer.Consumer. `create_task_handler`, `on_invalid_task`, `connection_errors`;
                  celery.worker.loops calls `_quick_drain`.
forgotten_claims.py  Claims whose work has ended. Nothing but what worker_heartbeat.py asks it.
worker_heartbeat.py  What a worker's main process does all the time. Nothing but what worker.py tells it.
transport.py      kombu's Redis transport. `Channel._get_message_priority`, and the order in which it reads its lists;
                  `QoS.ack`, `_quick_ack`, `pipe_or_acquire`, `_remove_from_indices`.

What is used elsewhere, and is in no documentation of Celery's: `Connection._reraise_as_library_errors`
(common/broker.py), `app.amqp.queues` (plain/message.py, plain/sweep.py), `Task.__header__`, which checks arguments
(declare.py of each kind), `current_app._get_current_object`
(checks.py), `billiard.current_process().index` and `billiard.common.terminate_handler_fired`
(common/time_limits.py), and the commands in `celery.bin` (management/commands/celery.py).
"""
