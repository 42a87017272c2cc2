"""Live video: a stream kept as memories of some minutes each, which questions are asked of while it goes on.

watcher = Watcher(engine, LiveSource("rtsp://camera/stream"), "kitchen")
while watcher.step():
    for event in watcher.events():
        print(event)
"""
