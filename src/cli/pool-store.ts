// Pool store: where `dimmer pool` finds pools and puts them back: a machine file, or a copy of a capture.
//
//   machine.yaml     text = the file          base = what it boots            write: the file, or another (-o)
//   a capture        text = capture.pools     base = its twin's machine       write: a bundle; -o has to name it
//
// `base` has no pools. The pools of a text are made on a fork of it, so that several texts can be tried on one boot.

import { err, ok, type Result } from '#base/result';
import { writeBundle } from '#hosts/linux/write';
import { type MachineFileProblem, makePools, type PoolPlan, parseMachineFile, parsePools } from '#machine-file/index';
import { Machine } from '#mm/index';
import { buildTwin } from '#twin/index';
import { type Complaint, EXIT } from './exit-code.ts';
import type { Io } from './io.ts';
import { isMachineFile, readInput } from './machine-source.ts';
import { openCapture } from './open-twin.ts';
import { VERSION } from './version.ts';
import { writeWhole } from './write-file.ts';

export type PoolStore = {
  /** What a sentence about the text begins with: "machine.yaml", "host.dimmer, its pools". */
  readonly name: string;
  readonly text: string;
  readonly base: Machine;
  readonly read: (text: string) => Result<readonly PoolPlan[], MachineFileProblem>;
  /** The file that `output` means; or why it cannot be said. */
  readonly target: (output: string | undefined) => Result<string, Complaint>;
  readonly write: (text: string, target: string) => Complaint | undefined;
};

const usage = (sentence: string): Result<never, Complaint> => err({ exit: EXIT.USAGE, sentence });

export const openPoolStore = (io: Io, source: string): Result<PoolStore, Complaint> =>
  isMachineFile(source) ? machineFileStore(source) : captureStore(io, source);

function machineFileStore(file: string): Result<PoolStore, Complaint> {
  const bytes = readInput(file);
  if (!bytes.ok) return bytes;
  const text = bytes.value.toString('utf8');
  const parsed = parseMachineFile(text);
  if (!parsed.ok) return usage(`${file}, ${parsed.error.sentence}`);
  return ok({
    name: file,
    text,
    base: Machine.boot(parsed.value.spec),
    read: (other) => {
      const again = parseMachineFile(other);
      return again.ok ? ok(again.value.pools) : again;
    },
    target: (output = file) =>
      /\.ya?ml$/.test(output) ? ok(output) : usage(`${output} is no name of a machine file: it ends in .yaml`),
    write: (other, target) =>
      writeWhole(target, other, { kind: 'a machine file', isOurs: (old) => parseMachineFile(old).ok }),
  });
}

function captureStore(io: Io, source: string): Result<PoolStore, Complaint> {
  const capture = openCapture(io, { from: source });
  if (!capture.ok) return capture;
  const { origin, pools } = capture.value;
  const twin = buildTwin(capture.value);
  if (!twin.ok) return err({ exit: EXIT.UNSUPPORTED, sentence: twin.error.message.replace(/\.$/, '') });
  if (twin.value.level === 'counters') {
    const sentence = `${origin.name} has no page flags: without them there is no machine to make pools on; read it as root`;
    return err({ exit: EXIT.UNSUPPORTED, sentence });
  }
  return ok({
    name: `${origin.name}, its pools`,
    text: pools ?? '',
    base: twin.value.machine,
    read: (text) => (text === '' ? ok([]) : parsePools(text)),
    target: (output) =>
      output === undefined ? usage(`a capture is not changed: name the copy that gets the pools, with -o`) : ok(output),
    write: (text, target) => {
      const { pools: _old, ...rest } = capture.value;
      const plans = parsePools(text);
      const copy = plans.ok && plans.value.length === 0 ? rest : { ...rest, pools: text };
      const written = writeBundle(copy, { file: target, toolVersion: VERSION });
      if (written.ok) return undefined;
      const exit = written.error.reason === 'failed' ? EXIT.FAILED : EXIT.USAGE;
      return { exit, sentence: written.error.sentence.replace(/\.$/, '') };
    },
  });
}

/** A machine with the pools of a text; or the sentence for what is wrong in it. */
export function machineWith(store: PoolStore, plans: readonly PoolPlan[]): Result<Machine, MachineFileProblem> {
  const machine = store.base.fork();
  const made = makePools(machine, plans);
  return made.ok ? ok(machine) : made;
}
