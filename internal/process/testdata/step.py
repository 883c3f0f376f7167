# For gdb: executes calls of the target's function caller instruction by
# instruction. After each it writes a line: registers, the upper end of the stack,
# and what gdb makes of it: functions, where they are, and the registers that
# caller's callees have to preserve, as caller has them.
import gdb
import json

GENERAL = "rax rdx rcx rbx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip".split()
PRESERVED = "rbx rbp r12 r13 r14 r15".split()
BELOW, ABOVE = 128, 2048
MASK = (1 << 64) - 1


def observe(out, stdin, version):
    """version: the address of the byte that says whether calls go to old or new code; 0: there is none."""
    with open(out, "w") as f:
        for value in [1, 0] if version else [1]:
            if version:
                gdb.selected_inferior().write_memory(version, bytes([value]))
            for which in range(4):
                call(f, stdin, which)


def call(out, stdin, which):
    inferior = gdb.selected_inferior()
    gdb.Breakpoint("*caller", temporary=True)
    with open(stdin, "w") as f:
        f.write("%d\n" % which)
    gdb.execute("continue", to_string=True)
    while True:
        frames, preserved = [], None
        f = gdb.newest_frame()
        top = {r: int(f.read_register(r)) & MASK for r in GENERAL}
        while f is not None:
            frames.append({"Name": f.name() or "?", "PC": f.pc()})
            if f.name() == "caller":
                preserved = [int(f.read_register(r)) & MASK for r in PRESERVED]
            f = f.older()
        if frames[0]["Name"] == "main":
            return
        at = top["rsp"] - BELOW
        stack = inferior.read_memory(at, BELOW + ABOVE).tobytes().hex()
        json.dump({"Registers": [top[r] for r in GENERAL], "At": at, "Stack": stack, "Frames": frames, "Preserved": preserved}, out)
        out.write("\n")
        gdb.execute("stepi", to_string=True)
