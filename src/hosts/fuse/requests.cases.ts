// Requests as the kernel sends them, for the tests: the other half of protocol.ts, and a session with a hand-cranked clock.

import type { KernelFs } from '#kernfs/kernel-fs';
import * as wire from './protocol.ts';
import { FuseSession } from './session.ts';
import type { Fields, Struct, Values } from './struct.ts';

let lastUnique = 0;

export type Opcode = keyof typeof wire.OPCODE;
export type Sent = { readonly unique: number; readonly bytes: Uint8Array };

/** A request with a body made of parts. The kernel's own counter goes up by two. */
export function request(op: Opcode | number, nodeid: number, ...parts: readonly Uint8Array[]): Sent {
  lastUnique += 2;
  const body = parts.reduce((n, p) => n + p.length, 0);
  const bytes = new Uint8Array(wire.IN_HEADER.size + body);
  const opcode = typeof op === 'number' ? op : wire.OPCODE[op];
  wire.IN_HEADER.write(bytes, 0, { len: bytes.length, opcode, unique: lastUnique, nodeid, pid: 77 });
  let at = wire.IN_HEADER.size;
  for (const p of parts) {
    bytes.set(p, at);
    at += p.length;
  }
  return { unique: lastUnique, bytes };
}

export function body<F extends Fields>(layout: Struct<F>, values: Partial<Values<F>>): Uint8Array {
  const out = new Uint8Array(layout.size);
  layout.write(out, 0, values);
  return out;
}

export const name = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`);

export type Answer = { readonly unique: number; readonly errno: number; readonly body: Uint8Array };

/** A session whose replies are kept, whose turns run when `turn` is called, and whose clock stands still. */
export class Bench {
  readonly session: FuseSession;
  readonly answers = new Map<number, Answer>();
  /** More than one reply to a request. */
  doubled = 0;
  nowMs = 0;
  pending: { turn: () => void; delayMs: number } | undefined;

  constructor(fs: KernelFs, writeTimeoutMs?: number) {
    this.session = new FuseSession(fs, {
      reply: (bytes) => {
        const h = wire.OUT_HEADER.read(bytes, 0);
        if (this.answers.has(h.unique)) this.doubled++;
        this.answers.set(h.unique, { unique: h.unique, errno: 0 - h.error, body: bytes.slice(wire.OUT_HEADER.size) });
      },
      schedule: (turn, delayMs) => {
        this.pending = { turn, delayMs };
      },
      nowMs: () => this.nowMs,
      timeS: 1000,
      writeTimeoutMs,
    });
  }

  /** @returns false when nothing is under way */
  turn(): boolean {
    const { pending } = this;
    this.pending = undefined;
    pending?.turn();
    return pending !== undefined;
  }

  send(sent: Sent): Answer | undefined {
    this.session.handle(sent.bytes);
    return this.answers.get(sent.unique);
  }

  /** An answer that must be there at once. */
  ask(op: Opcode | number, nodeid: number, ...parts: readonly Uint8Array[]): Answer {
    const answer = this.send(request(op, nodeid, ...parts));
    if (answer === undefined) throw new Error(`no answer to ${op}`);
    return answer;
  }

  /** Walks a path as the kernel does. @returns the number of the file, or the errno, negative */
  walk(path: string): number {
    let at = 1;
    for (const part of path.split('/').filter((p) => p !== '')) {
      const got = this.ask('lookup', at, name(part));
      if (got.errno !== 0) return -got.errno;
      at = wire.ENTRY_OUT.read(got.body, 0).nodeid;
    }
    return at;
  }

  /** @param flags of open(2): 0 read, 1 write, 2 both. @returns the handle, or the errno, negative */
  open(path: string, flags: number): { node: number; fh: number } {
    const node = this.walk(path);
    const got = this.ask('open', node, body(wire.OPEN_IN, { flags }));
    return { node, fh: got.errno !== 0 ? -got.errno : wire.OPEN_OUT.read(got.body, 0).fh };
  }

  read(file: { node: number; fh: number }, offset = 0, size = 65_536): Answer {
    return this.ask('read', file.node, body(wire.READ_IN, { fh: file.fh, offset, size }));
  }

  text(path: string): string {
    return new TextDecoder().decode(this.read(this.open(path, 0)).body);
  }

  /** Begins a write; the answer may come later. */
  write(path: string, text: string): Sent {
    const file = this.open(path, 1);
    const data = new TextEncoder().encode(text);
    const sent = request('write', file.node, body(wire.WRITE_IN, { fh: file.fh, size: data.length }), data);
    this.session.handle(sent.bytes);
    return sent;
  }

  interrupt(target: number): void {
    this.send(request('interrupt', 0, body(wire.INTERRUPT_IN, { unique: target })));
  }
}
