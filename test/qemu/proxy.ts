// SocketProxy: stands between dimmer and a guest's socket, and breaks it at a chosen moment.
//
//   dimmer ──> proxy ──> QEMU        up      bytes pass
//                                    cut     every connection is torn down, new ones are taken
//                                    down    torn down, and nobody answers until up()
//
// cutAfter(pattern): the request that matches is still forwarded, and then the connection is cut before its reply can pass:
// the case in which dimmer cannot know whether it was done. Lines are looked at, never changed.

import { connect, createServer, type Server, type Socket } from 'node:net';

export class SocketProxy {
  readonly path: string;
  /** What clients have sent, line by line. */
  readonly requests: string[] = [];
  readonly #target: string;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #server: Server | undefined;
  #cutAfter: RegExp | undefined;
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

  /** From now on: the next request that matches is forwarded, and the connection ends. Once. */
  cutAfter(pattern: RegExp): void {
    this.#cutAfter = pattern;
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
    for (const [socket, other] of [pair, [target, client]] as const) {
      socket.on('error', () => {});
      socket.on('close', () => this.#end(pair, false));
      if (socket === target) socket.on('data', (data) => other.write(data));
    }
    let rest = '';
    client.on('data', (data) => {
      const lines = (rest + data.toString('latin1')).split('\n');
      rest = lines.pop() as string;
      this.requests.push(...lines);
      // A request need not end its line; it is complete for QEMU when its brackets are.
      const seen = [...lines, rest].some((l) => this.#cutAfter?.test(l) === true);
      if (!seen) target.write(data);
      else {
        this.#cutAfter = undefined;
        target.write(data, () => this.#end(pair, true));
      }
    });
  }

  #end(pair: readonly [Socket, Socket], ours: boolean): void {
    if (!this.#pairs.delete(pair)) return;
    if (ours) this.#cuts++;
    for (const socket of pair) socket.destroy();
  }
}
