// openTwin: from --from or --sysroot to a twin, with what was lost on the way told on stderr.
//
//   a path                      a bundle, a directory, a lab snapshot
//   host                        this machine
//   qemu:..., libvirt:..., ...  a guest: its capture has been fetched (Io.live), or is wanted first (live-source.ts)
//   neither given, Linux        this machine
//   neither given, elsewhere    the bundled capture of a real guest, and a sentence that says so
//
// Pools that somebody kept with a capture (dimmer pool) are made on its twin; if that cannot be, it is not opened: every
// answer would be about another machine.
//
// A torn, denied or missing file is a note, not a failure: answers that suffer from it carry their provenance. A source
// that is no machine at all is one sentence and exit 2; a kernel without memory blocks is exit 4.

import * as fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { err, ok, type Result } from '#base/result';
import type { Capture } from '#capture/capture';
import { readCapture } from '#hosts/linux/read-capture';
import { makePools, parsePools } from '#machine-file/index';
import type { BlockId } from '#mm/index';
import { blocksOfTarget, judgeBlocks, parseTarget, type Target } from '#query/index';
import { type BlockVerdict, buildTwin, type Twin, type TwinRefusal } from '#twin/index';
import { type Complaint, EXIT, type ExitCode } from './exit-code.ts';
import type { Io } from './io.ts';
import { FETCH_DEADLINE_MS, kindOfSource, LiveSourceWanted } from './live-source.ts';
import { notesOf } from './notes.ts';
import { parseTime } from './options.ts';
import { Progress } from './progress.ts';

/** A real capture of a guest, for machines without Linux. test/golden/capture/README.md tells its origin. */
const DEMO = fileURLToPath(new URL('../../test/golden/demo.dimmer', import.meta.url));

export type SourceOptions = {
  readonly from?: string;
  readonly sysroot?: string;
  readonly quiet?: boolean;
  readonly timeout?: string;
};

/** Throws LiveSourceWanted for a guest whose capture is not held: runProgram fetches it and asks again. */
export function openCapture(io: Io, options: SourceOptions): Result<Capture, Complaint> {
  const { from, sysroot } = options;
  if (from !== undefined && sysroot !== undefined) return refuse(EXIT.USAGE, '--from and --sysroot exclude each other');
  const kind = kindOfSource(from ?? '.');
  if (!kind.ok) return kind;
  if (from !== undefined && kind.value === 'guest') return heldCapture(io, from, options);
  const asked = kind.value === 'host';
  const named = asked ? undefined : (from ?? sysroot);
  if (sysroot !== undefined && !isDirectory(sysroot))
    return refuse(EXIT.USAGE, `${sysroot} is not a directory; a bundle is read with --from ${sysroot}`);
  if (asked && fs.existsSync('host')) io.err('note: host is this machine; what is called host here is ./host\n');
  if (asked && io.platform !== 'linux') return refuse(EXIT.UNSUPPORTED, 'there is no Linux here; name a capture');
  if (named === undefined && io.platform !== 'linux') return openDemo(io);
  const read = readCapture(named ?? '/', { now: io.now });
  if (read.ok) return read;
  if (named === undefined && read.error.reason === 'no-machine' && !asked) return openDemo(io);
  return refuse(EXIT.USAGE, stripDot(read.error.sentence));
}

function heldCapture(io: Io, source: string, options: SourceOptions): Result<Capture, Complaint> {
  const held = io.live?.get(source);
  if (held !== undefined) return ok(held);
  const deadlineMs = options.timeout === undefined ? FETCH_DEADLINE_MS : parseTime(options.timeout);
  if (deadlineMs === undefined)
    return refuse(EXIT.USAGE, `--timeout takes a time, as in 90s or 5m, and at most a day; not "${options.timeout}"`);
  throw new LiveSourceWanted(source, { deadlineMs, quiet: options.quiet === true });
}

function openDemo(io: Io): Result<Capture, Complaint> {
  io.err('dimmer: there is no Linux here: this is a bundled capture of a real guest (Debian 6.1, 4 GiB, under load)\n');
  const read = readCapture(DEMO, { now: io.now });
  return read.ok ? read : refuse(EXIT.FAILED, `the bundled capture cannot be read: ${stripDot(read.error.sentence)}`);
}

export function openTwin(io: Io, options: SourceOptions): Result<Twin, Complaint> {
  const progress = new Progress(io, options.quiet === true);
  progress.say('reading');
  const capture = openCapture(io, options);
  progress.say('building the twin');
  const twin = capture.ok ? buildTwin(capture.value) : undefined;
  const pools = twin?.ok === true ? makeCapturedPools(twin.value) : undefined;
  progress.end();
  if (!capture.ok) return capture;
  if (twin?.ok !== true) return refuse(exitOf(twin?.error), stripDot(twin?.error.message ?? ''));
  if (pools !== undefined) return err(pools);
  if (options.quiet !== true) for (const note of notesOf(twin.value.problems)) io.err(`${note}\n`);
  return ok(twin.value);
}

/** The pools that a capture brings along, made on its twin. @returns why not */
export function makeCapturedPools(twin: Twin): Complaint | undefined {
  const { pools, origin } = twin.capture;
  if (pools === undefined) return undefined;
  if (twin.level === 'counters') {
    const sentence = `${origin.name} has pools and no page flags: without them there is no machine to make the pools on`;
    return { exit: EXIT.UNSUPPORTED, sentence };
  }
  const plans = parsePools(pools);
  const made = plans.ok ? makePools(twin.machine, plans.value) : plans;
  return made.ok ? undefined : { exit: EXIT.USAGE, sentence: `${origin.name}, its pools: ${made.error.sentence}` };
}

const exitOf = (refusal: TwinRefusal | undefined): ExitCode =>
  refusal?.reason === 'unsupported' || refusal?.reason === 'no-memory-blocks' ? EXIT.UNSUPPORTED : EXIT.USAGE;

export type Asked = {
  readonly twin: Twin;
  readonly target: Target;
  readonly blocks: readonly BlockId[];
  readonly verdicts: readonly BlockVerdict[];
};

/** The twin, and the verdicts of the target's blocks. The target is read first: a typing mistake costs no capture. */
export function ask(io: Io, targetText: string | undefined, options: SourceOptions): Result<Asked, Complaint> {
  const target = targetText === undefined ? ok<Target>({ kind: 'all' }) : parseTarget(targetText);
  if (!target.ok) return refuse(EXIT.USAGE, target.error.sentence);
  const twin = openTwin(io, options);
  if (!twin.ok) return twin;
  const blocks = blocksOfTarget(twin.value, target.value);
  if (!blocks.ok) return refuse(EXIT.USAGE, blocks.error.sentence);
  const progress = new Progress(io, options.quiet === true);
  const verdicts = judgeBlocks(twin.value, blocks.value, (done, of) => progress.step('judging blocks', done, of));
  progress.end();
  return ok({ twin: twin.value, target: target.value, blocks: blocks.value, verdicts });
}

function isDirectory(path: string): boolean {
  return fs.statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

const refuse = (exit: ExitCode, sentence: string): Result<never, Complaint> => err({ exit, sentence });
const stripDot = (sentence: string): string => sentence.replace(/\.$/, '');
