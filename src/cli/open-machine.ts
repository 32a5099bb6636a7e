// openMachine: from a source to a Machine and its tree, for the commands shell and export (mount: open-tree.ts).
//
//   --from machine.yaml    a computer that is not there: booted, its planned DIMMs plugged
//   --from SRC, --sysroot  a twin of what was recorded; what the engine does not model is as it was there
//   neither                a twin of this machine
//
// The one place where sources are told apart for these commands. A source without page flags gives no machine: exit 4.

import * as fs from 'node:fs';
import { err, ok, type Result } from '#base/result';
import { toPfn } from '#base/units';
import type { KernelFs } from '#kernfs/kernel-fs';
import type { KernTree } from '#kernfs/source';
import { type DimmPlan, parseMachineFile } from '#machine-file/index';
import { Machine, PAGE_SIZE, type Refusal } from '#mm/index';
import type { AutoOnline } from '#mm/kernel-profile';
import { plugDimm } from '#mm/memory-device';
import { type KernelTreeOptions, kernelTree, nextFreeStart } from '#tree/index';
import { type Complaint, EXIT } from './exit-code.ts';
import type { Io } from './io.ts';
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
  const opened = options.from !== undefined && isMachineFile(options.from) ? boot(options.from) : twin(io, options);
  if (!opened.ok) return opened;
  const { name, machine, base } = opened.value;
  return ok({ name, machine, tree: kernelTree(machine, { ...treeOptions, ...(base === undefined ? {} : { base }) }) });
}

const isMachineFile = (name: string): boolean => /\.ya?ml$/.test(name);

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

function boot(file: string): Result<Source, Complaint> {
  let text: string;
  try {
    text = fs.readFileSync(file, 'utf8');
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException; // fs throws nothing else
    return err({ exit: EXIT.USAGE, sentence: `${file} cannot be read (${code})` });
  }
  const parsed = parseMachineFile(text);
  if (!parsed.ok) return err({ exit: EXIT.USAGE, sentence: `${file}, ${parsed.error.sentence}` });
  const machine = Machine.boot(parsed.value.spec);
  for (const [k, dimm] of parsed.value.dimms.entries()) {
    const plugged = plug(machine, dimm);
    if (!plugged.ok) return err({ exit: EXIT.USAGE, sentence: `${file}: DIMM ${k}: ${plugged.error.message}` });
  }
  return ok({ name: parsed.value.name ?? file, machine });
}

const AUTO: Readonly<Record<Exclude<DimmPlan['online'], 'auto'>, AutoOnline>> = {
  offline: 'offline',
  online: 'online',
  kernel: 'online_kernel',
  movable: 'online_movable',
};

/** A planned DIMM is plugged; what the plan says of its blocks counts for them as auto_online_blocks would. */
function plug(m: Machine, dimm: DimmPlan): Result<unknown, Refusal> {
  const start = dimm.start === undefined ? nextFreeStart(m) : toPfn(dimm.start / PAGE_SIZE);
  const { settings } = m.hotplug;
  const usual = settings.autoOnline;
  if (dimm.online !== 'auto') settings.autoOnline = AUTO[dimm.online];
  const plugged = plugDimm(m, { start, end: toPfn(start + dimm.size / PAGE_SIZE) }, dimm.node);
  settings.autoOnline = usual;
  return plugged;
}
