// openMachine: from a source to a Machine and its tree, for the commands shell, export and (through open-tree.ts) mount.
//
//   --from machine.yaml    a computer that is not there: booted, its planned DIMMs plugged (machine-source.ts)
//   --from SRC, --sysroot  a twin of what was recorded; what the engine does not model is as it was there
//   neither                a twin of this machine
//
// A source without page flags gives no machine: exit 4.

import { err, ok, type Result } from '#base/result';
import type { KernelFs } from '#kernfs/kernel-fs';
import type { KernTree } from '#kernfs/source';
import type { Machine } from '#mm/index';
import { type KernelTreeOptions, kernelTree } from '#tree/index';
import { type Complaint, EXIT } from './exit-code.ts';
import type { Io } from './io.ts';
import { bootMachineFile, isMachineFile } from './machine-source.ts';
import { openTwin, type SourceOptions } from './open-twin.ts';

export type OpenedMachine = {
  readonly name: string;
  readonly machine: Machine;
  readonly tree: KernelFs;
};

export function openMachine(
  io: Io,
  options: SourceOptions,
  treeOptions: Pick<KernelTreeOptions, 'endless'> = {},
): Result<OpenedMachine, Complaint> {
  const { from, sysroot } = options;
  if (from !== undefined && sysroot !== undefined)
    return err({ exit: EXIT.USAGE, sentence: '--from and --sysroot exclude each other' });
  const opened: Result<Source, Complaint> = isMachineFile(from) ? bootMachineFile(from) : twin(io, options);
  if (!opened.ok) return opened;
  const { name, machine, base } = opened.value;
  return ok({ name, machine, tree: kernelTree(machine, { ...treeOptions, ...(base === undefined ? {} : { base }) }) });
}

type Source = { readonly name: string; readonly machine: Machine; readonly base?: KernTree };

function twin(io: Io, options: SourceOptions): Result<Source, Complaint> {
  const opened = openTwin(io, options);
  if (!opened.ok) return opened;
  const { capture } = opened.value;
  if (opened.value.level === 'pages') {
    return ok({ name: capture.origin.name, machine: opened.value.machine, base: capture.tree });
  }
  const sentence = `${capture.origin.name} has no page flags: without them there is no machine to change; read it as root`;
  return err({ exit: EXIT.UNSUPPORTED, sentence });
}
