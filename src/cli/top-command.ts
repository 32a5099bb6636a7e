// dimmer top: a machine's memory as it is, until q: blocks, verdicts, free areas, and what happens as lines.
//
//   every --interval   host.observe ──> blocks and free areas ─────────┐
//   every --verdicts   host.capture ──> twin ──> a verdict a block ────┼──> model ──> frame (query/top.ts) ──> terminal
//   as they come       host.watch: events of QEMU, kernel lines ───────┤
//   keys               q, arrows, enter, r ────────────────────────────┘
//
//   where                   what is shown
//   a terminal              a screen of its own, drawn anew at each look; taken away on every way out
//   no terminal             one frame, then a line for each thing that happens: a log
//   --once                  one frame with verdicts, and done
//
// Two looks never overlap; while a capture goes through the guest's agent, looks wait for their turn between its requests. A look
// that fails is said in the head and as a line, and tried again; only the first one must succeed. Nothing is changed on the
// machine. Exit: 0 after q; 128 + n after signal n (Ctrl-C: 130); of a first look that fails as live-source.ts has it.

import * as os from 'node:os';
import type { Command } from 'commander';
import { formatSize, plural } from '#base/format';
import type { Capture } from '#capture/capture';
import type { Clock, Host, HostFailure } from '#control/host';
import { changes } from '#hosts/linux/uevents';
import type { Observation } from '#plan/observation';
import { explainBlocks } from '#query/index';
import { frame, type Judged, moveChoice, nextBlocks, type TopBlock, type TopModel, topRows } from '#query/top';
import { type BlockVerdict, buildTwin, Judge, type Twin } from '#twin/index';
import { EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { complaintOfFailure, FETCH_DEADLINE_MS, untilInterrupt } from './live-source.ts';
import { complain, parseTime } from './options.ts';
import { Progress } from './progress.ts';
import { SYSTEM_CLOCK } from './system-clock.ts';
import { type Key, processTerminal, type Terminal } from './top-terminal.ts';
import { WatchLines } from './watch-lines.ts';

type Options = {
  readonly from: string;
  readonly interval: string;
  readonly verdicts: string;
  readonly timeout?: string;
  readonly once?: boolean;
};

/** More often would be nothing but load: a look at a guest takes some ten milliseconds of its agent. */
const INTERVAL_MS_MIN = 100;
const LINES_KEPT = 200;
const GROUPS_EXPLAINED = 5;

export function addTop(
  program: Command,
  io: Io,
  exit: (code: number) => void,
  terminal: () => Terminal | undefined = processTerminal,
  clock: Clock = SYSTEM_CLOCK,
): void {
  program
    .command('top')
    .description('Shows blocks, verdicts and free areas as they change, and events as lines. Nothing is changed.')
    .option('--from <source>', 'host, qemu:QMP_SOCKET,agent=SOCKET, libvirt:DOMAIN or proxmox:VMID', 'host')
    .option('--interval <time>', 'how often to look', '2s')
    .option('--verdicts <time>', 'how often to judge the blocks anew, which takes a capture; off: never', '1m')
    .option('--timeout <time>', 'how long a look or a capture may take (default 60s)')
    .option('--once', 'one frame as text, and done')
    .addHelpText(
      'after',
      `
Keys: q quits; arrows choose a block, enter explains it, escape leaves it; r judges the blocks now.
Without a terminal: one frame, then a line for each change and event, until a signal.

Examples:
  sudo dimmer top                                            this machine
  sudo dimmer top --from qemu:/run/vm.qmp,agent=/run/vm.qga  a guest, with QEMU's events
  sudo dimmer top --once                                     one frame, for a report
  sudo dimmer top --verdicts off --interval 500ms > log      what happens, as lines`,
    )
    .action((options: Options) => {
      const asked = readOptions(options);
      if (typeof asked === 'string') return exit(complain(io, { exit: EXIT.USAGE, sentence: asked }));
      if (io.later === undefined || io.openHost === undefined)
        return exit(complain(io, { exit: EXIT.UNSUPPORTED, sentence: 'top needs a process of its own' }));
      const opened = io.openHost(options.from);
      if (!opened.ok) return exit(complain(io, opened.error));
      io.later(runTop(new Top(io, opened.value, { ...asked, source: options.from, clock }), terminal));
    });
}

type Asked = {
  readonly intervalMs: number;
  /** Undefined: blocks are not judged. */
  readonly verdictsMs: number | undefined;
  readonly deadlineMs: number;
  readonly once: boolean;
};

function readOptions(options: Options): Asked | string {
  const intervalMs = parseTime(options.interval);
  const verdictsMs = options.verdicts === 'off' ? undefined : parseTime(options.verdicts);
  const deadlineMs = options.timeout === undefined ? FETCH_DEADLINE_MS : parseTime(options.timeout);
  if (intervalMs === undefined || intervalMs < INTERVAL_MS_MIN)
    return `--interval takes a time from ${INTERVAL_MS_MIN}ms on, as in 2s; not "${options.interval}"`;
  if (verdictsMs === undefined && options.verdicts !== 'off')
    return `--verdicts takes a time, as in 1m, or off; not "${options.verdicts}"`;
  if (deadlineMs === undefined) return `--timeout takes a time, as in 90s or 5m; not "${options.timeout}"`;
  return { intervalMs, verdictsMs, deadlineMs, once: options.once === true };
}

/** @returns the exit code, when everything is closed and the terminal is as it was. */
async function runTop(top: Top, terminal: () => Terminal | undefined): Promise<number> {
  try {
    const failed = await top.begin();
    if (failed !== undefined) return failed;
    return top.once ? await top.print() : await top.live(terminal());
  } finally {
    await top.close();
  }
}

class Top {
  readonly #io: Io;
  readonly #host: Host;
  readonly #asked: Asked & { readonly source: string; readonly clock: Clock };
  readonly #lines = new WatchLines(LINES_KEPT);
  readonly #ended = new AbortController();
  #onLine: (line: string) => void = () => {};
  #redraw: () => void = () => {};
  #kind = '';
  #seen: Observation | undefined;
  #blocks: readonly TopBlock[] = [];
  #twin: Twin | undefined;
  #judged: ReadonlyMap<number, Judged & { readonly whole: BlockVerdict }> = new Map();
  #judgedAt = '';
  #busy = '';
  #silent = '';
  #chosen: number | undefined;
  #says: readonly string[] = [];
  #hurry = new AbortController();

  constructor(io: Io, host: Host, asked: Asked & { readonly source: string; readonly clock: Clock }) {
    this.#io = io;
    this.#host = host;
    this.#asked = asked;
  }

  get once(): boolean {
    return this.#asked.once;
  }

  /** The first look. @returns an exit code when there is nothing to show */
  async begin(): Promise<number | undefined> {
    const { deadlineMs, source } = this.#asked;
    const progress = new Progress(this.#io, false);
    progress.say(`asking ${source}`);
    const got = await untilInterrupt(async (signal) => {
      const info = await this.#host.info({ deadlineMs, signal });
      if (!info.ok) return info;
      this.#kind = info.value.kind;
      return this.#host.observe({ deadlineMs, signal });
    });
    progress.end();
    if (!got.ok) return complain(this.#io, complaintOfFailure(source, got.error));
    this.#take(got.value);
    return undefined;
  }

  /** --once. */
  async print(): Promise<number> {
    if (this.#asked.verdictsMs !== undefined) {
      const progress = new Progress(this.#io, false);
      progress.say('judging the blocks');
      const failed = await untilInterrupt((signal) => this.#judge(signal));
      progress.end();
      if (failed?.kind === 'cancelled') return complain(this.#io, complaintOfFailure(this.#asked.source, failed));
      if (failed !== undefined) this.#io.err(`note: the blocks are not judged: ${failed.sentence}\n`);
    }
    this.#print();
    return EXIT.OK;
  }

  /** Until a key or a signal. Rejects where something has a bug; the terminal is as it was then, too. */
  async live(terminal: Terminal | undefined): Promise<number> {
    const { signal } = this.#ended;
    let end: (code: number) => void = () => {};
    const ended = new Promise<number>((resolve) => {
      end = resolve;
    });
    const signals = (['SIGINT', 'SIGTERM', 'SIGHUP'] as const).map((name) => {
      const handler = (): void => end(128 + os.constants.signals[name]);
      process.on(name, handler);
      return { name, handler };
    });
    try {
      if (terminal === undefined) {
        this.#print();
        this.#onLine = (line) => this.#io.out(`${line}\n`);
      } else {
        const colour = wantsColour(this.#io);
        this.#redraw = () => terminal.draw(frame(this.#model(KEYS_LINE), terminal.size()), colour);
        this.#onLine = () => this.#redraw();
        terminal.open({ key: (key) => this.#key(key, end), resized: () => this.#redraw() });
        this.#redraw();
      }
      const work = [this.#looks(signal), this.#verdicts(signal), this.#host.watch((l) => this.#line(l), signal)];
      // A watch that has nothing more to say, or verdicts that are off, end nothing; a bug ends all.
      const bug = Promise.all(work).then(() => ended);
      const code = await Promise.race([ended, bug]);
      terminal?.close(); // whoever pressed q does not wait for a guest to answer
      this.#ended.abort();
      this.#hurry.abort();
      await Promise.all(work);
      return code;
    } finally {
      terminal?.close();
      for (const { name, handler } of signals) process.off(name, handler);
    }
  }

  async close(): Promise<void> {
    this.#ended.abort();
    await this.#host.close();
  }

  async #looks(signal: AbortSignal): Promise<void> {
    const { intervalMs, deadlineMs, clock } = this.#asked;
    let tookMs = 0;
    while (!signal.aborted) {
      await clock.sleep(Math.max(intervalMs, tookMs), signal); // never more than half of the time goes into looking
      if (signal.aborted) return;
      const startedMs = clock.nowMs();
      const seen = await this.#host.observe({ deadlineMs, signal });
      tookMs = clock.nowMs() - startedMs;
      if (signal.aborted) return;
      if (seen.ok) {
        if (this.#silent !== '') this.#line('it answers again');
        this.#silent = '';
        this.#take(seen.value);
      } else {
        if (this.#silent === '') this.#silent = this.#time();
        this.#line(seen.error.sentence);
      }
      this.#redraw();
    }
  }

  async #verdicts(signal: AbortSignal): Promise<void> {
    const { verdictsMs, clock } = this.#asked;
    if (verdictsMs === undefined) return;
    while (!signal.aborted) {
      const failed = await this.#judge(signal);
      if (signal.aborted) return;
      if (failed !== undefined) this.#line(`the blocks are not judged: ${failed.sentence}`);
      this.#redraw();
      this.#hurry = new AbortController();
      await clock.sleep(verdictsMs, AbortSignal.any([signal, this.#hurry.signal]));
    }
  }

  /** Captures, builds a twin, judges block by block; keys are served in between. @returns why not */
  async #judge(signal: AbortSignal): Promise<HostFailure | undefined> {
    const busy = (what: string): void => {
      this.#busy = what;
      this.#redraw();
    };
    busy('capturing, to judge the blocks');
    const captured = await this.#host.capture({ deadlineMs: this.#asked.deadlineMs, signal });
    const failed = captured.ok ? await this.#judgeCapture(captured.value, signal, busy) : captured.error;
    this.#busy = '';
    return failed;
  }

  async #judgeCapture(
    capture: Capture,
    signal: AbortSignal,
    busy: (what: string) => void,
  ): Promise<HostFailure | undefined> {
    const at = this.#time();
    const twin = buildTwin(capture);
    if (!twin.ok) return { kind: 'unsupported', sentence: twin.error.message.replace(/\.$/, '') };
    const judge = new Judge(twin.value);
    const judged = new Map<number, Judged & { whole: BlockVerdict }>();
    const total = twin.value.blocks.length;
    for (const [k, { id }] of twin.value.blocks.entries()) {
      const whole = judge.judge(id);
      const [zone, ...more] = whole?.zones ?? [];
      if (whole !== undefined)
        judged.set(id, {
          verdict: whole.verdict,
          state: whole.state,
          zone: whole.state !== 'online' || zone === 'none' || more.length > 0 ? undefined : zone,
          whole,
        });
      if (k % 32 === 31) busy(`judging the blocks, ${k + 1} of ${total}`);
      await new Promise((resolve) => setImmediate(resolve));
      if (signal.aborted) return { kind: 'cancelled', sentence: 'judging the blocks was cancelled' };
    }
    this.#twin = twin.value;
    this.#judged = judged;
    this.#judgedAt = at;
    this.#says = [];
    // The same blocks with their verdicts: nothing has changed by that.
    if (this.#seen !== undefined)
      this.#blocks = nextBlocks(this.#blocks, this.#seen.blocks, judged).map((b) => ({ ...b, changed: false }));
    return undefined;
  }

  #take(seen: Observation): void {
    const before = this.#seen;
    this.#seen = seen;
    this.#blocks = nextBlocks(before === undefined ? undefined : this.#blocks, seen.blocks, this.#judged);
    // This machine's own watch sees more, as it looks more often; out of a guest no such lines come.
    if (before === undefined || this.#kind === 'linux') return;
    for (const line of changes(statesOf(before), statesOf(seen))) this.#line(line);
    for (const line of deviceChanges(before, seen)) this.#line(line);
  }

  #line(text: string): void {
    this.#onLine(this.#lines.push(this.#time(), text.replace(QEMU_STAMP, '')));
  }

  #key(key: Key, end: (code: number) => void): void {
    switch (key) {
      case 'quit':
        return end(EXIT.OK);
      case 'interrupt':
        return end(EXIT.INTERRUPTED);
      case 'refresh':
        this.#hurry.abort();
        return;
      case 'escape':
        this.#chosen = undefined;
        this.#says = [];
        break;
      case 'enter':
        this.#says = this.#chosen === undefined ? [] : this.#explain(this.#chosen);
        break;
      default: {
        const rows = topRows({ blocks: this.#blocks, zones: [] });
        this.#chosen = moveChoice(rows, this.#chosen, key);
        this.#says = [];
      }
    }
    this.#redraw();
  }

  /** What `dimmer explain` says, in a few lines. */
  #explain(block: number): readonly string[] {
    const known = this.#judged.get(block);
    if (known === undefined || this.#twin === undefined) return ['not judged yet'];
    const report = explainBlocks(this.#twin, [known.whole]);
    const groups = report.groups.slice(0, GROUPS_EXPLAINED).map((g) => {
      const whose = g.cgroup === undefined ? '' : ` (${g.cgroup})`;
      return `  ${plural(g.pages, 'page')}, ${g.name}${whose}: spoils ${plural(g.pageblocks, 'pageblock')}`;
    });
    const rest = report.groups.length - groups.length;
    return [
      known.whole.reason,
      ...groups,
      ...(rest === 0 ? [] : [`  and ${rest} more: dimmer explain block:${block}`]),
    ];
  }

  #print(): void {
    const lines = frame(this.#model(), { width: widthOf(this.#io) ?? 100 });
    this.#io.out(
      `${lines
        .map((l) =>
          l
            .map((s) => s.text)
            .join('')
            .trimEnd(),
        )
        .join('\n')}\n`,
    );
  }

  #model(keys?: string): TopModel {
    const seen = this.#seen as Observation; // begin() has looked
    return {
      name: this.#asked.source === 'host' ? 'this machine' : this.#asked.source,
      time: this.#time(),
      blockBytes: seen.blockBytes,
      memTotal: seen.memTotal,
      memFree: seen.memFree,
      blocks: this.#blocks,
      zones: seen.free,
      notes: [
        ...(this.#silent === '' ? [] : [`NO ANSWER since ${this.#silent}`]),
        ...(this.#judgedAt === '' ? [] : [`verdicts of ${this.#judgedAt}`]),
        ...(this.#busy === '' ? [] : [this.#busy]),
      ],
      devices: devicesOf(seen),
      lines: this.#lines.lines,
      ...(this.#chosen === undefined ? {} : { chosen: { block: this.#chosen, says: this.#says } }),
      ...(keys === undefined ? {} : { keys }),
    };
  }

  #time(): string {
    return this.#io.now().toTimeString().slice(0, 8);
  }
}

/** QEMU's own, in front of an event: our lines have a stamp. */
const QEMU_STAMP = /^\d{4}-\d\d-\d\dT[\d:.]+Z /;

const KEYS_LINE = 'q quit   arrows choose a block   enter explains it   r judges now';

const statesOf = (o: Observation): Map<number, string> =>
  new Map(o.blocks.map((b) => [b.id, b.zone === undefined ? b.state : `${b.state} ${b.zone}`]));

/** A line for each device of the hypervisor. */
export function devicesOf(o: Observation): string[] {
  const h = o.hypervisor;
  if (h === undefined) return [];
  return [
    ...h.dimms.map((d) => `DIMM ${d.id}: ${formatSize(d.size)} on node ${d.node}, slot ${d.slot}`),
    ...h.virtioMem.map((v) => {
      const sizes = `${formatSize(v.size)} of ${formatSize(v.maxSize)} plugged, ${formatSize(v.requested)} asked for`;
      return `virtio-mem ${v.id}: ${sizes}, node ${v.node}`;
    }),
    ...(h.balloonBytes === undefined || h.balloonBytes === h.baseBytes
      ? []
      : [`balloon: leaves ${formatSize(h.balloonBytes)} of ${formatSize(h.baseBytes)}`]),
  ];
}

/** Devices that came, went, or are another size than before. */
export function deviceChanges(before: Observation, now: Observation): string[] {
  const was = devicesOf(before);
  const is = devicesOf(now);
  return [...was.filter((d) => !is.includes(d)).map((d) => `was: ${d}`), ...is.filter((d) => !was.includes(d))];
}
