import os, socket, sys, threading
host, port, mark = sys.argv[1:]
def fail(e):
    os.write(2, (str(e) + "\n").encode())
    os._exit(1)
try:
    if host == "unix":
        s = socket.socket(socket.AF_UNIX)
        s.connect(port)
    else:
        s = socket.create_connection((host, int(port)))
except OSError as e:
    fail(e)
def up():
    try:
        while True:
            b = os.read(0, 65536)
            if not b:
                break
            s.sendall(b)
        s.shutdown(socket.SHUT_WR)
    except OSError:
        pass
t = threading.Thread(target=up)
t.daemon = True
t.start()
def out(b):
    while b:
        b = b[os.write(1, b):]
try:
    while True:
        b = s.recv(65536)
        if not b:
            break
        out(b)
    out(mark.encode())
except OSError as e:
    fail(e)
t.join()
