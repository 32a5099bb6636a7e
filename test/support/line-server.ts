// Line server: a unix socket in a directory of its own, and what a test plays behind it: a QEMU monitor, a guest agent.

import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** One client of the server. */
export type Peer = {
  /** From 0 on, in the order of connecting. */
  readonly n: number;
  send(data: string | Uint8Array): void;
  /** Ends the connection at once. */
  cut(): void;
};

export type LineServer = {
  readonly path: string;
  /** All lines that came, as bytes, of all clients. */
  readonly lines: Buffer[];
  readonly peers: Peer[];
  close(): Promise<void>;
};

/** @param play  onPeer when a client has connected, onLine for each line of it; `path`: of a server that was closed */
export async function lineServer(play: {
  onPeer?: (peer: Peer) => void;
  onLine?: (line: Buffer, peer: Peer) => void;
  path?: string;
}): Promise<LineServer> {
  const dir = mkdtempSync(join(tmpdir(), 'dimmer-line-'));
  const path = play.path ?? join(dir, 'sock');
  const lines: Buffer[] = [];
  const peers: Peer[] = [];
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    const peer: Peer = {
      n: peers.length,
      send: (data) => void (socket.destroyed || socket.write(data)),
      cut: () => socket.destroy(),
    };
    peers.push(peer);
    let rest = Buffer.alloc(0);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    socket.on('data', (chunk) => {
      rest = Buffer.concat([rest, chunk]);
      for (let at = rest.indexOf(10); at >= 0; at = rest.indexOf(10)) {
        const line = rest.subarray(0, at);
        rest = rest.subarray(at + 1);
        lines.push(line);
        play.onLine?.(line, peer);
      }
    });
    play.onPeer?.(peer);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    path,
    lines,
    peers,
    close: () =>
      new Promise((resolve) => {
        for (const s of sockets) s.destroy();
        server.close(() => {
          for (const made of [dir, dirname(path)]) rmSync(made, { recursive: true, force: true });
          resolve();
        });
      }),
  };
}

export type Json = Readonly<Record<string, unknown>>;
/** A request as a server sees it. */
export type Request = { readonly execute: string; readonly arguments?: Json; readonly id?: string };

/** As QEMU 7.2 of Debian greets, carriage return included. */
export const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18+b3"}, ' +
  '"capabilities": ["oob"]}}\r\n';

/** A monitor that greets, agrees on capabilities, and leaves the rest to the test. */
export function fakeQemu(
  handle: (request: Request, peer: Peer) => void,
  onPeer: (peer: Peer) => void = (peer) => peer.send(GREETING),
  path?: string,
): Promise<LineServer> {
  return lineServer({
    ...(path === undefined ? {} : { path }),
    onPeer,
    onLine: (line, peer) => {
      const request = JSON.parse(line.toString()) as Request;
      if (request.execute === 'qmp_capabilities') peer.send(`${JSON.stringify({ return: {}, id: request.id })}\r\n`);
      else handle(request, peer);
    },
  });
}

/**
 * An agent that does one thing after the other and syncs as qemu-ga 7.2 does, its complaint about 0xFF included; the test does
 * the rest, and holds up whatever comes later for as long as its promise takes.
 */
export function fakeAgent(
  handle: (request: Request, peer: Peer) => void | Promise<void>,
  path?: string,
): Promise<LineServer> {
  let turn: Promise<void> = Promise.resolve();
  const one = (line: Buffer, peer: Peer): void | Promise<void> => {
    if (line[0] === 0xff)
      peer.send('{"error": {"class": "GenericError", "desc": "JSON parse error, stray \'\ufffd\'"}}\n');
    const request = JSON.parse(line.subarray(line[0] === 0xff ? 1 : 0).toString()) as Request;
    if (request.execute !== 'guest-sync-delimited') return handle(request, peer);
    peer.send(Buffer.concat([Buffer.of(0xff), Buffer.from(`{"return": ${request.arguments?.id}}\n`)]));
  };
  return lineServer({
    ...(path === undefined ? {} : { path }),
    onLine: (line, peer) => {
      turn = turn.then(() => one(line, peer));
    },
  });
}

/** Replies as JSON on a line. */
export const reply = (value: unknown): string => `${JSON.stringify({ return: value })}\n`;
export const refuse = (desc: string, name = 'GenericError'): string =>
  `${JSON.stringify({ error: { class: name, desc } })}\n`;

/** Things with a close, closed after each test in the opposite order. */
export function keeper(
  afterEach: (run: () => Promise<void>) => void,
): <T extends { close(): Promise<void> }>(x: T) => T {
  const open: { close(): Promise<void> }[] = [];
  afterEach(async () => {
    for (const x of open.splice(0).reverse()) await x.close();
  });
  return (x) => {
    open.push(x);
    return x;
  };
}
