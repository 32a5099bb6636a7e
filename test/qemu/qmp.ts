// The harness's own QMP client: enough to prepare a guest and to see for itself, independent of the one under test.
//
//   connect ──> greeting ──> qmp_capabilities ──> request(execute, arguments) ──> reply by id; events kept in order
//
// It throws where the product would return a failure: here a failure is a broken test. It speaks to the guest agent as well,
// which has no greeting, no ids and no events; there one request is under way at a time.

import { connect, type Socket } from 'node:net';

export type QmpEvent = {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly seenMs: number;
};
type Reply = { readonly return?: unknown; readonly error?: { readonly class: string; readonly desc: string } };

const CONNECT_TRIES = 200;
const CONNECT_PAUSE_MS = 50;
const REQUEST_MS = 60_000;

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Connects to a unix socket that may not be there yet. `alive` says why there is no point in going on. */
export async function connectWhenThere(path: string, alive: () => string | undefined): Promise<Socket> {
  for (let k = 0; k < CONNECT_TRIES; k++) {
    const socket = await new Promise<Socket | undefined>((resolve) => {
      const s = connect(path);
      s.once('connect', () => resolve(s));
      s.once('error', () => resolve(undefined));
    });
    if (socket !== undefined) return socket.on('error', () => {});
    const dead = alive();
    if (dead !== undefined) throw new Error(dead);
    await sleep(CONNECT_PAUSE_MS);
  }
  throw new Error(`${path}: nobody listens`);
}

/** Calls back with each line that comes, without its end. */
export function onLines(socket: Socket, onLine: (line: string) => void): void {
  let rest = '';
  socket.setEncoding('utf8');
  socket.on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() as string;
    for (const line of lines) onLine(line);
  });
}

export class Qmp {
  readonly events: QmpEvent[] = [];
  readonly #socket: Socket;
  readonly #waiting = new Map<number, (reply: Reply) => void>();
  #nextId = 1;

  private constructor(socket: Socket) {
    this.#socket = socket;
    onLines(socket, (line) => {
      const message = JSON.parse(line) as Reply & { id?: number; event?: string; data?: QmpEvent['data'] };
      if (message.event !== undefined)
        this.events.push({ event: message.event, data: message.data ?? {}, seenMs: performance.now() });
      else if (message.id !== undefined) this.#waiting.get(message.id)?.(message);
    });
  }

  static async connect(path: string, alive: () => string | undefined): Promise<Qmp> {
    const qmp = new Qmp(await connectWhenThere(path, alive));
    await qmp.request('qmp_capabilities');
    return qmp;
  }

  /** @returns the reply's `return`; throws on an error reply and when none comes */
  request(execute: string, args?: Record<string, unknown>): Promise<unknown> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new Error(`${execute}: no reply within ${REQUEST_MS} ms`));
      }, REQUEST_MS);
      this.#waiting.set(id, (reply) => {
        clearTimeout(timer);
        this.#waiting.delete(id);
        if (reply.error !== undefined) reject(new Error(`${execute}: ${reply.error.class}: ${reply.error.desc}`));
        else resolve(reply.return);
      });
      this.#socket.write(`${JSON.stringify({ execute, id, ...(args === undefined ? {} : { arguments: args }) })}\n`);
    });
  }

  /** An event of that name since the mark (a length of `events`), as it comes or as it came; undefined: not in time. */
  async waitEvent(name: string, since: number, timeoutMs: number): Promise<QmpEvent | undefined> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const found = this.events.slice(since).find((e) => e.event === name);
      if (found !== undefined || performance.now() > end) return found;
      await sleep(20);
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** One request to a guest agent on a connection of its own, after guest-sync. Throws on an error and when no answer comes. */
export async function askAgent(
  path: string,
  execute: string,
  args?: Record<string, unknown>,
  timeoutMs = 10_000,
): Promise<unknown> {
  const socket = await connectWhenThere(path, () => undefined);
  const id = process.pid * 1000 + Math.trunc(performance.now());
  try {
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${execute}: the agent does not answer`)), timeoutMs);
      let synced = false;
      onLines(socket, (line) => {
        const reply = JSON.parse(line.replace(/^\xff/, '')) as Reply;
        if (!synced) {
          if (reply.return !== id) return; // an answer to somebody before us
          synced = true;
          socket.write(`${JSON.stringify({ execute, ...(args === undefined ? {} : { arguments: args }) })}\n`);
          return;
        }
        clearTimeout(timer);
        if (reply.error !== undefined) reject(new Error(`${execute}: ${reply.error.desc}`));
        else resolve(reply.return);
      });
      socket.write(`${JSON.stringify({ execute: 'guest-sync', arguments: { id } })}\n`);
    });
  } finally {
    socket.destroy();
  }
}
