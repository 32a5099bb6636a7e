// SocketProxy: stands between dimmer and a guest's socket, and breaks it at a chosen moment.
//
//   dimmer ──> proxy ──> QEMU        up      bytes pass
//                                    cut     every connection is torn down, new ones are taken
//                                    down    torn down, and nobody answers until up()
//
// A request that matches a pattern can be lost in two ways, which look the same from dimmer's side: whether it was done, it cannot
// know. Lines are looked at, never changed.
//
//   cutAt(pattern, 'request')    the connection ends instead of forwarding it: never done
//   cutAt(pattern, 'reply')      forwarded; the connection ends when the other end begins to answer: done, and not told

import { connect, createServer, type Server, type Socket } from 'node:net';

export class SocketProxy {
  readonly path: string;
  /** What clients have sent, line by line. */
  readonly requests: string[] = [];
  readonly #target: string;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #server: Server | undefined;
  #cutAt: { readonly pattern: RegExp; readonly lost: 'request' | 'reply' } | undefined;
  #cuts = 0;

  private constructor(path: string, target: string) {
    this.path = path;
    this.#target = target;
  }

  static async listen(path: string, target: string): Promise<SocketProxy> {
    const proxy = new SocketProxy(path, target);
    await proxy.up();
    return proxy;
  }

  /** How often a connection was torn down by us. */
  get cuts(): number {
    return this.#cuts;
  }

  /** From now on: the next request that matches, and the connection, once. */
  cutAt(pattern: RegExp, lost: 'request' | 'reply'): void {
    this.#cutAt = { pattern, lost };
  }

  cut(): void {
    for (const pair of [...this.#pairs]) this.#end(pair, true);
  }

  async up(): Promise<void> {
    if (this.#server !== undefined) return;
    const server = createServer((client) => this.#join(client));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.path, resolve);
    });
    this.#server = server;
  }

  async down(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    this.cut();
    await closed;
  }

  #join(client: Socket): void {
    const target = connect(this.#target);
    const pair = [client, target] as const;
    this.#pairs.add(pair);
    for (const socket of pair) {
      socket.on('error', () => {});
      socket.on('close', () => this.#end(pair, false));
    }
    let answerIsLost = false;
    target.on('data', (data) => {
      if (answerIsLost) this.#end(pair, true);
      else client.write(data);
    });
    let rest = '';
    client.on('data', (data) => {
      const lines = (rest + data.toString('latin1')).split('\n');
      rest = lines.pop() as string;
      this.requests.push(...lines);
      const cut = this.#cutAt;
      // A request need not end its line; it is complete for QEMU when its brackets are.
      if (cut !== undefined && [...lines, rest].some((l) => cut.pattern.test(l))) {
        this.#cutAt = undefined;
        if (cut.lost === 'request') {
          this.#end(pair, true);
          return;
        }
        answerIsLost = true;
      }
      target.write(data);
    });
  }

  #end(pair: readonly [Socket, Socket], ours: boolean): void {
    if (!this.#pairs.delete(pair)) return;
    if (ours) this.#cuts++;
    for (const socket of pair) socket.destroy();
  }
}
