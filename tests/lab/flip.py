#!/usr/bin/python3
"""Passes TCP connections on and inverts one byte of the first one: what comes behind it has a wrong CRC.

  flip.py HOST PORT TO-HOST TO-PORT request|answer OFFSET     OFFSET in what goes there or comes back
"""
import socket
import sys
import threading


def relay(source, sink, flip):
    seen = 0
    try:
        while chunk := source.recv(65536):
            if seen <= flip < seen + len(chunk):
                chunk = bytearray(chunk)
                chunk[flip - seen] ^= 0xFF
                print('flipped', flush=True)
            seen += len(chunk)
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in source, sink:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def main():
    host, port, to_host, to_port, direction, offset = sys.argv[1:]
    listener = socket.create_server((host, int(port)))
    flips = {direction: int(offset)}
    while True:
        client, _ = listener.accept()
        server = socket.create_connection((to_host, int(to_port)))
        for end in client, server:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for way, source, sink in ('request', client, server), ('answer', server, client):
            threading.Thread(target=relay, args=(source, sink, flips.get(way, -1)), daemon=True).start()
        flips = {}


if __name__ == '__main__':
    main()
