// openTree: what `dimmer mount` mounts. The one place where a source becomes a tree that can be written to.
//
//   --from, --sysroot, or this machine ──> capture ──> twin, Linux to the letter ──> kernelTree
//   --from machine.yaml ──> openMachine: booted, its DIMMs plugged; Linux to the letter where the file says `compat: linux`
//
// A twin for questions ends an offline that Linux would try for ever, so that there is an answer; here the writer waits, as
// there, until a signal comes. Without page flags there is no machine to write to: exit 4.

import { err, ok, type Result } from '#base/result';
import type { KernelFs } from '#kernfs/kernel-fs';
import { kernelTree } from '#tree/kernel-tree';
import { buildTwin } from '#twin/index';
import { type Complaint, EXIT } from './exit-code.ts';
import type { Io } from './io.ts';
import { isMachineFile } from './machine-source.ts';
import { notesOf } from './notes.ts';
import { openMachine } from './open-machine.ts';
import { makeCapturedPools, openCapture, type SourceOptions } from './open-twin.ts';
import { Progress } from './progress.ts';

export function openTree(io: Io, options: SourceOptions): Result<KernelFs, Complaint> {
  if (isMachineFile(options.from)) {
    const opened = openMachine(io, options, { endless: 'wait' });
    return opened.ok ? ok(opened.value.tree) : opened;
  }
  const progress = new Progress(io, options.quiet === true);
  progress.say('reading');
  const capture = openCapture(io, options);
  progress.say('building the twin');
  const twin = capture.ok ? buildTwin(capture.value, { compat: 'linux' }) : undefined;
  progress.end();
  if (!capture.ok) return capture;
  if (twin?.ok !== true)
    return err({ exit: EXIT.UNSUPPORTED, sentence: (twin?.error.message ?? 'there is no twin').replace(/\.$/, '') });
  const pools = makeCapturedPools(twin.value);
  if (pools !== undefined) return err(pools);
  if (options.quiet !== true) for (const note of notesOf(twin.value.problems)) io.err(`${note}\n`);
  if (twin.value.level === 'counters')
    return err({
      exit: EXIT.UNSUPPORTED,
      sentence: 'a tree that can be written to needs to know the pages (/proc/kpageflags); read it as root',
    });
  return ok(kernelTree(twin.value.machine, { base: capture.value.tree, endless: 'wait' }));
}
