# lopower's: runs your main.py, which lies beside this file as main_program.py. An exception that it does not catch is
# kept for `lopower device logs`, and raised as ever. Put a main.py of yours here, and it runs without that.
try:
    execfile("main_program.py")
except Exception as _error:
    try:
        __import__("lopower").log(_error)
    except Exception:
        pass  # no memory, or no lopower: it is printed, at least
    raise
