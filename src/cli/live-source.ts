// Live sources: machines that run, as --from names them, and how a synchronous command comes by the capture of one.
//
//   host                             this machine: read through /proc and /sys, as without --from
//   qemu:QMP_SOCKET,agent=SOCKET     a QEMU/KVM guest, through its monitor and its guest agent
//   libvirt:DOMAIN, proxmox:VMID     the same, found and asked as these two do it
//
//   runProgram ──> command ──> openCapture(qemu:...)        not held: throws LiveSourceWanted, nothing has been printed yet
//       │                                                             │
//       └── again, the capture in Io.live <── fetchCapture <──────────┘   asynchronous: progress, deadline, Ctrl-C
//
// Commands stay synchronous and know nothing of it. They ask for a source when their arguments have been understood, so that
// a typing mistake costs no capture; what they do before is done twice, and must be without effects. Whatever has a scheme is
// no file: a file of such a name is written ./host or ./qemu:x.
//
// A fetch that fails is one sentence. Exit: 2 nobody answers, or not sensibly; 4 not possible or not allowed here;
// 124 the deadline; 130 Ctrl-C. A second Ctrl-C ends the process at once.

import { unreachable } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import type { Capture } from '#capture/capture';
import type { Host, HostFailure } from '#control/host';
import { type Complaint, EXIT, type ExitCode } from './exit-code.ts';
import type { Io } from './io.ts';
import { Progress } from './progress.ts';
import { formatMs } from './style.ts';

export const LIVE_FORMS = 'host, qemu:QMP_SOCKET,agent=SOCKET, libvirt:DOMAIN or proxmox:VMID';

/** How long a fetch may take, unless --timeout says something else. */
export const FETCH_DEADLINE_MS = 60_000;

/** What --from is about. `host` is this machine; a `guest` is opened as a Host; everything else is a path. */
export type SourceKind = 'host' | 'guest' | 'path';

const GUESTS = ['qemu', 'libvirt', 'proxmox'];
/** What people type, and what they probably mean. */
const MEANT: Readonly<Record<string, string>> = {
  host: 'host',
  localhost: 'host',
  local: 'host',
  kvm: 'qemu:QMP_SOCKET,agent=SOCKET',
  qmp: 'qemu:QMP_SOCKET,agent=SOCKET',
  unix: 'qemu:QMP_SOCKET,agent=SOCKET',
  virsh: 'libvirt:DOMAIN',
  virt: 'libvirt:DOMAIN',
  vm: 'libvirt:DOMAIN',
  qm: 'proxmox:VMID',
  pve: 'proxmox:VMID',
};

/** @returns a usage error for a scheme that is none, or a guest without a name. A path wins by a "/" before the colon. */
export function kindOfSource(from: string): Result<SourceKind, Complaint> {
  if (from === 'host') return ok('host');
  const scheme = /^([a-z][a-z0-9+.-]+):(.*)$/s.exec(from);
  if (scheme === null) return ok('path');
  const [, word = '', rest = ''] = scheme;
  if (GUESTS.includes(word)) {
    if (rest !== '') return ok('guest');
    const form = Object.values(MEANT).find((f) => f.startsWith(`${word}:`));
    return err({ exit: EXIT.USAGE, sentence: `${from} names no guest; it is written ${form}` });
  }
  const meant = MEANT[word];
  const hint =
    meant !== undefined
      ? `did you mean ${meant}?`
      : word === 'ssh'
        ? 'capture it there (dimmer capture -o FILE) and name the file'
        : `a live machine is ${LIVE_FORMS}`;
  return err({ exit: EXIT.USAGE, sentence: `"${word}:" is no source: ${hint}; a file of that name is ./${from}` });
}

/** Thrown by openCapture, caught by runProgram: the command needs a capture that somebody has to fetch first. */
export class LiveSourceWanted extends Error {
  readonly source: string;
  readonly deadlineMs: number;
  readonly quiet: boolean;

  constructor(source: string, options: { deadlineMs: number; quiet: boolean }) {
    super(`${source} is a live machine, and nobody has fetched its capture`);
    this.source = source;
    this.deadlineMs = options.deadlineMs;
    this.quiet = options.quiet;
  }
}

/** The capture of a guest. Cost: seconds; some hundred files and the page flags go through the guest agent. */
export async function fetchCapture(
  io: Io,
  wanted: Pick<LiveSourceWanted, 'source' | 'deadlineMs' | 'quiet'>,
  openHost: (source: string) => Result<Host, Complaint>,
): Promise<Result<Capture, Complaint>> {
  const { source, deadlineMs, quiet } = wanted;
  const opened = openHost(source);
  if (!opened.ok) return opened;
  const host = opened.value;
  const progress = new Progress(io, quiet);
  const started = io.now().getTime();
  const say = (): void => {
    const seconds = Math.round((io.now().getTime() - started) / 1000);
    progress.say(`reading ${source}${seconds < 1 ? '' : `, ${seconds} s`}`);
  };
  say();
  const ticks = setInterval(say, 1000);
  try {
    const captured = await untilInterrupt((signal) => host.capture({ deadlineMs, signal }));
    return captured.ok ? captured : err(complaintOfFailure(source, unfetched(captured.error, deadlineMs)));
  } finally {
    clearInterval(ticks);
    progress.end();
    await host.close();
  }
}

/** The whole fetch in one sentence: of a deadline and of Ctrl-C, the request that they happened to meet says little. */
function unfetched(failure: HostFailure, deadlineMs: number): HostFailure {
  if (failure.kind === 'cancelled') return { ...failure, sentence: 'reading it was interrupted' };
  if (failure.kind !== 'timeout') return failure;
  const sentence = `it was not read within ${formatMs(deadlineMs)} (--timeout gives it longer): ${failure.sentence}`;
  return { ...failure, sentence };
}

/** Runs something that Ctrl-C (SIGINT, SIGTERM) ends through its signal; the second one ends the process, as ever. */
export async function untilInterrupt<T>(run: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const control = new AbortController();
  const abort = (): void => control.abort();
  process.once('SIGINT', abort);
  process.once('SIGTERM', abort);
  try {
    return await run(control.signal);
  } finally {
    process.off('SIGINT', abort);
    process.off('SIGTERM', abort);
  }
}

/** A failure of the world as one sentence that names the source, and an exit code. */
export function complaintOfFailure(source: string, failure: HostFailure): Complaint {
  const sentence = failure.sentence.replace(/\.$/, '');
  return { exit: exitOfFailure(failure), sentence: sentence.includes(source) ? sentence : `${source}: ${sentence}` };
}

function exitOfFailure({ kind }: HostFailure): ExitCode {
  switch (kind) {
    case 'unreachable':
    case 'disconnected':
    case 'protocol':
    case 'refused':
    case 'closed':
      return EXIT.USAGE;
    case 'denied':
    case 'unsupported':
      return EXIT.UNSUPPORTED;
    case 'timeout':
      return EXIT.DEADLINE;
    case 'cancelled':
      return EXIT.INTERRUPTED;
    default:
      return unreachable(kind);
  }
}
