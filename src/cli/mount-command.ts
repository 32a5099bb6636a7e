// dimmer mount: a twin as a live /sys and /proc, for the machine's own tools.
//
//   dimmer mount DIR                      serves until Ctrl-C, umount, SIGTERM or SIGHUP; unmounts
//   dimmer mount DIR -- chmem -d 1G       runs a command that takes the tree for the machine's own; its exit code is ours
//
// The one command that outlives runProgram: its exit code comes later (Io.later). Where the tree comes from is a parameter,
// OpenTree; program.ts says which.
//
//   exit   what
//   0      the tree was unmounted by somebody else; with a command: as the command
//   1, 2   mount(8) failed; DIR is no place for it (see src/hosts/fuse/guard.ts)
//   4      no FUSE here, or not for this user; in the namespace: the guard found the real tree
//   128+n  ended by signal n; with a command: the command was
//
// With a command, the terminal's signals (Ctrl-C) are the command's: dimmer waits for it, then unmounts. SIGTERM and
// SIGHUP are passed on to it.

import type { ChildProcess } from 'node:child_process';
import * as os from 'node:os';
import type { Command } from 'commander';
import { unreachable } from '#base/assert';
import type { Result } from '#base/result';
import { type MountEnd, type Mounted, type MountRefusal, mountFuse, spawnInside, whyNoFuse } from '#hosts/fuse/index';
import type { KernelFs } from '#kernfs/kernel-fs';
import { type Complaint, EXIT, type ExitCode } from './exit-code.ts';
import type { Io } from './io.ts';
import type { SourceOptions } from './open-twin.ts';
import { complain, withSource } from './options.ts';

/** A tree that can be written to, made of what --from or --sysroot names, or of this machine. */
export type OpenTree = (io: Io, options: SourceOptions) => Result<KernelFs, Complaint>;

type MountCommandOptions = SourceOptions & { readonly writeTimeout?: string };

export function addMount(program: Command, io: Io, exit: (code: number) => void, openTree: OpenTree): void {
  withSource(program.command('mount'))
    .description('Mounts a twin as a live /sys and /proc, so that lsmem and chmem drive it. Needs root and FUSE.')
    .argument('<dir>', 'an empty directory')
    .argument('[command...]', 'after --: a command that takes the tree for the machine’s own')
    .option('--write-timeout <seconds>', 'end a write that takes longer (ETIMEDOUT, undone); Linux tries for ever')
    .addHelpText(
      'after',
      `
With a command: it runs in a private mount namespace, where /sys/devices/system/memory, .../node and the files in /proc are
the twin's, and the rest of /sys is read-only. It is not started unless the twin is what it would see there.

Examples:
  sudo dimmer mount /mnt/t --from host.dimmer                     until Ctrl-C; look: lsmem --sysroot /mnt/t
  sudo dimmer mount /mnt/t --from host.dimmer -- lsmem            the real lsmem, on the twin
  sudo dimmer mount /mnt/t --from host.dimmer -- chmem -d 1G      the real chmem: can it be had?`,
    )
    .action((dir: string, command: string[], options: MountCommandOptions) => {
      if (io.later === undefined)
        return exit(
          complain(io, { exit: EXIT.UNSUPPORTED, sentence: 'mount needs a process of its own, to serve from' }),
        );
      io.later(runMount(io, dir, command, options, openTree));
    });
}

/** @returns the exit code, when all is unmounted. Rejects where the tree has a bug. */
export async function runMount(
  io: Io,
  dir: string,
  command: readonly string[],
  options: MountCommandOptions,
  openTree: OpenTree,
): Promise<number> {
  const seconds = options.writeTimeout === undefined ? undefined : Number(options.writeTimeout);
  if (seconds !== undefined && !(seconds > 0 && seconds <= 86_400))
    return complain(io, { exit: EXIT.USAGE, sentence: '--write-timeout takes seconds, more than 0 and at most a day' });
  const lacking = whyNoFuse();
  if (lacking !== undefined) return complain(io, complaintOf(lacking));
  const tree = openTree(io, options);
  if (!tree.ok) return complain(io, tree.error);
  // From here on a signal must not end the process before the tree is unmounted.
  const signals = new Signals();
  try {
    const mounted = await mountFuse(tree.value, dir, seconds === undefined ? {} : { writeTimeoutMs: seconds * 1000 });
    if (!mounted.ok) return complain(io, complaintOf(mounted.error));
    if (command.length > 0) return await serveCommand(io, mounted.value, tree.value, command, signals);
    if (options.quiet !== true)
      io.err(
        `dimmer: mounted on ${mounted.value.dir}; Ctrl-C unmounts it (look: lsmem --sysroot ${mounted.value.dir})\n`,
      );
    return await serve(mounted.value, signals);
  } finally {
    signals.end();
  }
}

/** Until a signal, or until somebody unmounts it. */
async function serve(mounted: Mounted, signals: Signals): Promise<number> {
  const first = await Promise.race([mounted.closed, signals.first]);
  raise(await mounted.unmount());
  return typeof first === 'string' ? 128 + os.constants.signals[first] : EXIT.OK;
}

async function serveCommand(
  io: Io,
  mounted: Mounted,
  tree: KernelFs,
  command: readonly string[],
  signals: Signals,
): Promise<number> {
  const child = spawnInside({ mounted, tree, command });
  signals.passTo(child);
  const code = await codeOf(io, child);
  raise(await mounted.unmount());
  return code;
}

function codeOf(io: Io, child: ChildProcess): Promise<number> {
  return new Promise((resolve) => {
    child.on('error', (e) =>
      resolve(complain(io, { exit: EXIT.UNSUPPORTED, sentence: `unshare(1) could not be run: ${e.message}` })),
    );
    child.on('exit', (code, signal) =>
      resolve(code ?? (signal === null ? EXIT.FAILED : 128 + os.constants.signals[signal])),
    );
  });
}

/** A mount that ended by itself, with an error: a bug, and reported as one. */
function raise(end: MountEnd): void {
  if (end.error !== undefined) throw end.error;
}

const ENDING = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
type Ending = (typeof ENDING)[number];

/** Signals that would end the process, caught from construction to end(). */
class Signals {
  readonly first: Promise<Ending>;
  #child: ChildProcess | undefined;
  readonly #handlers: readonly { name: Ending; handler: () => void }[];

  constructor() {
    let say: (name: Ending) => void = () => {};
    this.first = new Promise((resolve) => {
      say = resolve;
    });
    this.#handlers = ENDING.map((name) => ({
      name,
      handler: () => {
        say(name);
        if (name !== 'SIGINT') this.#child?.kill(name); // the terminal has sent SIGINT to the command as well
      },
    }));
    for (const { name, handler } of this.#handlers) process.on(name, handler);
  }

  passTo(child: ChildProcess): void {
    this.#child = child;
  }

  end(): void {
    for (const { name, handler } of this.#handlers) process.off(name, handler);
  }
}

function complaintOf(refusal: MountRefusal): Complaint {
  return { exit: exitOf(refusal), sentence: refusal.sentence };
}

function exitOf({ reason }: MountRefusal): ExitCode {
  switch (reason) {
    case 'no-device':
    case 'not-permitted':
    case 'byte-order':
      return EXIT.UNSUPPORTED;
    case 'forbidden-place':
    case 'not-a-directory':
    case 'not-empty':
    case 'in-use':
      return EXIT.USAGE;
    case 'mount-failed':
      return EXIT.FAILED;
    default:
      return unreachable(reason);
  }
}
