"""Ten mistakes, each on a line of its own, and mypy and pyright must both reject each. It is read by them, not run."""

from handbell import isolated_task, over, serial_task
from tests.packaging.typed_user import Counter, download, find_frequency, increment_value, scrape_url, send_report

increment_value.delay("visits", by="x")  # mistake: the wrong type of an argument
increment_value.delay()  # mistake: no row
increment_value.delay(None)  # mistake: what cannot be a primary key
increment_value.delay("visits", 1, 2)  # mistake: an argument too many
send_report.delay(7, title="March")  # mistake: a name that the task does not have
text: str = increment_value.delay("visits").get()  # mistake: another type of result
download.launch(url=3)  # mistake: the wrong type of an argument, by its name
isolated_task(memory_mb=512)  # mistake: no timeout
serial_task(on=Counter, key="visits")  # mistake: options that contradict each other
over(["a"]).map(scrape_url).map(find_frequency, 7)  # mistake: the wrong type of an argument of a job's task
