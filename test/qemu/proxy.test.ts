// The proxy that cuts, on a server that echoes: what it loses is lost, what it passes has passed. Part of the ordinary run.

import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { SocketProxy } from './proxy.ts';
import { onLines } from './qmp.ts';

let dir: string;
let server: Server;
let heard: string[];
let proxy: SocketProxy;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'dimmer-proxy-'));
  heard = [];
  server = createServer((s) => {
    s.on('error', () => {});
    onLines(s, (line) => {
      heard.push(line);
      s.write(`re: ${line}\n`);
    });
  });
  await new Promise<void>((resolve) => server.listen(join(dir, 'server'), resolve));
  proxy = await SocketProxy.listen(join(dir, 'proxy'), join(dir, 'server'));
});
afterEach(async () => {
  await proxy.down();
  server.close();
  rmSync(dir, { recursive: true, force: true });
});

/** Sends lines, waits until the connection ends or as many answers have come. @returns the answers, and whether it ended */
function exchange(lines: readonly string[]): Promise<{ answers: string[]; ended: boolean }> {
  const socket: Socket = connect(proxy.path);
  const answers: string[] = [];
  return new Promise((resolve) => {
    const end = (ended: boolean): void => {
      resolve({ answers, ended });
      socket.destroy();
    };
    socket.on('error', () => {});
    socket.on('close', () => end(true));
    onLines(socket, (line) => {
      answers.push(line);
      if (answers.length === lines.length) end(false);
      else socket.write(`${lines[answers.length]}\n`);
    });
    socket.on('connect', () => socket.write(`${lines[0]}\n`));
  });
}

it('passes lines both ways, and keeps what was asked', async () => {
  expect(await exchange(['one', 'two'])).toEqual({ answers: ['re: one', 're: two'], ended: false });
  expect(proxy.requests).toEqual(['one', 'two']);
  expect(proxy.cuts).toBe(0);
});

it('a lost request is never heard; the connection ends, the next one works', async () => {
  proxy.cutAt(/two/, 'request');
  expect(await exchange(['one', 'two', 'three'])).toEqual({ answers: ['re: one'], ended: true });
  expect(heard).toEqual(['one']);
  expect(await exchange(['two'])).toEqual({ answers: ['re: two'], ended: false });
  expect(proxy.cuts).toBe(1);
});

it('a lost reply was heard; the connection ends before it passes', async () => {
  proxy.cutAt(/two/, 'reply');
  expect(await exchange(['one', 'two', 'three'])).toEqual({ answers: ['re: one'], ended: true });
  expect(heard).toEqual(['one', 'two']);
});

it('down: nobody answers; up: somebody does', async () => {
  await proxy.down();
  expect(await exchange(['one'])).toEqual({ answers: [], ended: true });
  await proxy.up();
  expect(await exchange(['one'])).toEqual({ answers: ['re: one'], ended: false });
});
