"""Moves a file there and back by Samba's libraries, as file managers and media players (libsmbclient) and scripts do.

  libsmbclient.py ctypes|samba HOST[:PORT] USER FILE      the password is pw, the share is "share"
"""
import ctypes
import os
import sys


def by_ctypes(server, user, payload):
    """libsmbclient's old interface, which needs no header: smbc_open and its kin."""
    library = ctypes.CDLL("libsmbclient.so.0", use_errno=True)

    def check(result):
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    @ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, *[ctypes.c_void_p, ctypes.c_int] * 3)
    def answer(_server, _share, domain, domain_size, name, name_size, password, password_size):
        for text, place, size in ((b"", domain, domain_size), (user.encode(), name, name_size), (b"pw", password, password_size)):
            ctypes.memmove(place, text + b"\0", min(size, len(text) + 1))

    library.smbc_read.restype = library.smbc_write.restype = ctypes.c_ssize_t
    check(library.smbc_init(answer, 0))
    base = f"smb://{server}/share".encode()
    file = check(library.smbc_open(base + b"/by_ctypes", os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o644))
    done = 0
    while done < len(payload):
        part = payload[done:done + 1000000]
        done += check(library.smbc_write(file, part, ctypes.c_size_t(len(part))))
    check(library.smbc_close(file))
    file = check(library.smbc_open(base + b"/by_ctypes", os.O_RDONLY, 0))
    buffer, back = ctypes.create_string_buffer(1000000), b""
    while count := check(library.smbc_read(file, buffer, ctypes.c_size_t(len(buffer)))):
        back += buffer.raw[:count]
    check(library.smbc_close(file))
    directory = check(library.smbc_opendir(base))
    check(library.smbc_closedir(directory))
    check(library.smbc_unlink(base + b"/by_ctypes"))
    return back


def by_python3_samba(server, user, payload):
    from samba import credentials
    from samba.samba3 import libsmb_samba_internal as libsmb, param
    configuration = param.get_context()
    configuration.load(os.environ["SMB_CONF_PATH"])
    who = credentials.Credentials()
    who.guess()
    who.set_username(user)
    who.set_password("pw")
    connection = libsmb.Conn(server, "share", configuration, who)
    connection.savefile("by_python", payload)
    back = connection.loadfile("by_python")
    if "by_python" not in [entry["name"] for entry in connection.list("")]:
        sys.exit("the file is not in the directory")
    connection.unlink("by_python")
    return back


def main():
    way, server, user, path = sys.argv[1:]
    with open(path, "rb") as file:
        payload = file.read()
    back = {"ctypes": by_ctypes, "samba": by_python3_samba}[way](server, user, payload)
    if back != payload:
        sys.exit(f"{len(back)} bytes came back, and they are not the {len(payload)} that went")
    print(f"{len(back)} bytes there and back")


main()
