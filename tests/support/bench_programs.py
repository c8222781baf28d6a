"""Programs that the boards of the bench's tests run."""

TALK = """
import requests, time
print("talking")
while True:
    try:
        print("answer", requests.get("http://{}/").status_code)
    except OSError as error:
        print("silence", error)
    time.sleep_ms(200)
"""
"""Asks the gateway at that address for its page, for ever."""
