# For gdb: lets the target meet a breakpoint and executes the handler of it
# instruction by instruction. Before each it writes a line: the functions of all
# frames, as gdb names them.
import gdb


def observe(out, stdin, handler):
    gdb.execute("handle SIGTRAP nostop noprint pass", to_string=True)
    gdb.Breakpoint("*%d" % handler)
    with open(stdin, "w") as f:
        f.write("0\n")
    gdb.execute("continue", to_string=True)
    gdb.execute("handle SIGTRAP nopass", to_string=True)
    with open(out, "w") as f:
        while True:
            frame, names = gdb.newest_frame(), []
            leaving = frame.type() == gdb.SIGTRAMP_FRAME
            while frame is not None:
                names.append("signal" if frame.type() == gdb.SIGTRAMP_FRAME else frame.name() or "?")
                frame = frame.older()
            f.write(" ".join(names) + "\n")
            if leaving:
                return
            gdb.execute("stepi", to_string=True)
