// Machine files as a source: what --from machine.yaml and `dimmer sim` read, and what the first of them boots.
//
//   FILE ──readInput──> text ──readMachineFile──> MachineFile ──bootWithPools──> Machine, its pools made
//                                                              ──bootMachineFile──> ... and its planned DIMMs plugged
//
// Pools are made of memory that is there at boot, before any DIMM. Each planned DIMM is plugged as a slot of the firmware would do it (plugDimm), in the order of the file; what the file
// says of its blocks counts for that DIMM as auto_online_blocks would. `sim` shows the boot itself and plugs nothing.
//
// Refusals are one sentence and exit 2: no such file, no machine (with its line and field), a DIMM that does not fit.

import * as fs from 'node:fs';
import { err, ok, type Result } from '#base/result';
import { toPfn } from '#base/units';
import type { Srat } from '#kernfs/srat';
import { type DimmPlan, type MachineFile, makePools, parseMachineFile } from '#machine-file/index';
import { Machine, PAGE_SIZE, type Refusal } from '#mm/index';
import type { AutoOnline } from '#mm/kernel-profile';
import { plugDimm } from '#mm/memory-device';
import { nextFreeStart } from '#tree/index';
import { type Complaint, EXIT } from './exit-code.ts';

/** Whether --from names a machine file: by its name, *.yaml or *.yml. A directory of that name is a directory. */
export const isMachineFile = (name: string | undefined): name is string =>
  name !== undefined && /\.ya?ml$/.test(name) && fs.statSync(name, { throwIfNoEntry: false })?.isDirectory() !== true;

export function readInput(file: string): Result<Buffer, Complaint> {
  try {
    return ok(fs.readFileSync(file));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code; // fs throws nothing else
    const why =
      code === 'ENOENT' ? 'there is no such file' : code === 'EISDIR' ? 'is a directory' : `cannot be read: ${code}`;
    return err({ exit: EXIT.USAGE, sentence: `${file}: ${why}` });
  }
}

/** @param srat  the firmware's table: which node the file's RAM belongs to */
export function readMachineFile(file: string, srat?: Srat): Result<MachineFile, Complaint> {
  const text = readInput(file);
  if (!text.ok) return text;
  const parsed = parseMachineFile(text.value.toString('utf8'), srat === undefined ? {} : { srat });
  return parsed.ok ? parsed : err({ exit: EXIT.USAGE, sentence: `${file}, ${parsed.error.sentence}` });
}

/** A machine file booted, with its pools. Refuses a pool that the engine refuses: one sentence with its line and field. */
export function bootWithPools(
  file: string,
  read: MachineFile,
  change: Partial<MachineFile['spec']> = {},
): Result<Machine, Complaint> {
  const machine = Machine.boot({ ...read.spec, ...change });
  const made = makePools(machine, read.pools);
  return made.ok ? ok(machine) : err({ exit: EXIT.USAGE, sentence: `${file}, ${made.error.sentence}` });
}

/** Cost: that of a boot and its pools, and O(blocks) for each DIMM. */
export function bootMachineFile(file: string): Result<{ name: string; machine: Machine }, Complaint> {
  const read = readMachineFile(file);
  if (!read.ok) return read;
  const booted = bootWithPools(file, read.value, { compat: read.value.spec.compat ?? 'linux' });
  if (!booted.ok) return booted;
  const machine = booted.value;
  for (const [k, dimm] of read.value.dimms.entries()) {
    const plugged = plug(machine, dimm);
    if (!plugged.ok) return err({ exit: EXIT.USAGE, sentence: `${file}: DIMM ${k}: ${plugged.error.message}` });
  }
  return ok({ name: read.value.name ?? file, machine });
}

const AUTO: Readonly<Record<Exclude<DimmPlan['online'], 'auto'>, AutoOnline>> = {
  offline: 'offline',
  online: 'online',
  kernel: 'online_kernel',
  movable: 'online_movable',
};

function plug(m: Machine, dimm: DimmPlan): Result<unknown, Refusal> {
  const start = dimm.start === undefined ? nextFreeStart(m) : toPfn(dimm.start / PAGE_SIZE);
  const { settings } = m.hotplug;
  const usual = settings.autoOnline;
  if (dimm.online !== 'auto') settings.autoOnline = AUTO[dimm.online];
  const plugged = plugDimm(m, { start, end: toPfn(start + dimm.size / PAGE_SIZE) }, dimm.node);
  settings.autoOnline = usual;
  return plugged;
}
