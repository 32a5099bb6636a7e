// dimmer plan: from a goal to a plan, tried on copies of the machine. Nothing is done to the machine itself.
//
//   remove TARGET      memory that is to leave      add SIZE NODE       memory that is to come
//   resize SIZE        so much in all               contiguous N        free chunks of one order
//
// The answer is a table for people, or the plan itself as JSON (--json, -o FILE), which `dimmer apply` carries out. Where
// Linux alone cannot remove a target, --with shows below what helps beyond Linux would be worth (removal-text.ts).

import type { Command } from 'commander';
import { err, ok, type Result } from '#base/result';
import { addGoal, resizeGoal } from '#plan/goal';
import {
  compareRemoval,
  type Goal,
  HELPS,
  type Help,
  type Observation,
  type Plan,
  type PlanOptions,
} from '#plan/index';
import { blocksOfTarget, parseTarget, sourceInfo } from '#query/index';
import type { Twin } from '#twin/index';
import { sourceLine } from './check-command.ts';
import { type Complaint, EXIT } from './exit-code.ts';
import { type Io, wantsColour, widthOf } from './io.ts';
import { formatJson } from './json.ts';
import { makePlan, planInputOf } from './make-plan.ts';
import { openTwin, type SourceOptions } from './open-twin.ts';
import { complain, withSource } from './options.ts';
import { formatPlan } from './plan-text.ts';
import { Progress } from './progress.ts';
import { formatRemoval } from './removal-text.ts';
import { writeWhole } from './write-file.ts';

type Options = SourceOptions & {
  readonly json?: boolean;
  readonly all?: boolean;
  readonly output?: string;
  readonly force?: boolean;
  readonly with?: string;
  readonly zone?: string;
  readonly order?: string;
  readonly hugepages?: boolean;
};

const usage = (sentence: string): Complaint => ({ exit: EXIT.USAGE, sentence });

const withPlan = (command: Command): Command =>
  withSource(command)
    .option('-o, --output <file>', 'writes the plan there, for dimmer apply; only a plan is replaced')
    .option('-a, --all', 'every candidate that was rejected, not the first few')
    .option('-J, --json', 'the plan as JSON (docs/formats/plan.md)');

const TRIED = `
Everything is tried on a copy of the machine; the machine itself is left alone. What is written with -o is done by dimmer apply.
Exit code: 0 feasible; 3 not, or not all of it.
`;

export function addPlan(program: Command, io: Io, exit: (code: number) => void): void {
  const plan = program
    .command('plan')
    .description('How a goal can be reached, step by step, tried on copies of the machine.')
    .addHelpText(
      'after',
      `
Examples:
  dimmer plan remove size:4G                     which memory could leave most cheaply?
  dimmer plan add size:10G node:1 -o add.json    and then: dimmer apply add.json
  dimmer plan contiguous 512 --order 9           512 huge pages, without a reboot?`,
    );
  withPlan(plan.command('remove'))
    .description('Takes memory out: offline block by block, then the device.')
    .argument('<target>', 'size:4G, dimm:dimm1, dimm:0, node:1, block:32-39, range:0x..-0x.., zone:1/Movable, or all')
    .option('--force', 'plans what the twin says will be refused, too')
    .option('--with <helps>', `also compares what no Linux does: ${HELPS.join(', ')}, or all`)
    .addHelpText(
      'after',
      `${TRIED}
--with is for what Linux cannot remove: each line adds one help to the line before. Linux has compaction; that struct pages
move, that drivers give up their fixed areas, and that kernel pages move under constant virtual addresses is what no Linux can
do (Hansen 2005): it says what that would be worth. With --json it is the comparison that is printed.

Examples:
  dimmer plan remove dimm:dimm1 --from qemu:vm.qmp,agent=vm.qga -o out.json   a DIMM of a guest
  dimmer plan remove node:1 --with remap,drivers                              what would help?
  dimmer plan remove all --from host.dimmer --json                            a saved machine, for a program`,
    )
    .action((target: string, options: Options) => exit(runRemove(io, target, options)));
  withPlan(plan.command('add'))
    .description('Adds memory: virtio-mem or DIMMs, one fully online before the next.')
    .argument('<words...>', 'size:10G and node:1')
    .option('--zone <zone>', 'movable (it can leave again) or kernel', 'movable')
    .addHelpText(
      'after',
      `${TRIED}
Looked at before: room for the struct pages of what comes, slots, maxmem, alignment, the ratio of movable to kernel memory, and
whether what is added could be taken out again.

Examples:
  dimmer plan add size:10G node:1 --from qemu:vm.qmp,agent=vm.qga -o add.json
  dimmer plan add size:1G node:0 --zone kernel --from libvirt:web1`,
    )
    .action((words: string[], options: Options) => exit(runAdd(io, words, options)));
  withPlan(plan.command('resize'))
    .description('Brings a guest to a size in all: virtio-mem, DIMMs, balloon, as it fits.')
    .argument('<size>', 'size:8G: boot memory and what is plugged, less the balloon')
    .option('--force', 'plans what the twin says will be refused, too')
    .addHelpText(
      'after',
      `${TRIED}
Examples:
  dimmer plan resize size:8G --from qemu:vm.qmp,agent=vm.qga -o resize.json
  dimmer plan resize size:1536M --from libvirt:web1`,
    )
    .action((size: string, options: Options) => {
      const goal = resizeGoal(size);
      exit(goal.ok ? answer(io, goal.value, options, optionsOf(options)) : complain(io, usage(goal.error)));
    });
  withPlan(plan.command('contiguous'))
    .description('Free chunks of contiguous memory, as for huge pages, without a reboot.')
    .argument('<chunks>', 'how many')
    .option('--order <order>', 'of 2^order pages of 4 KiB each: 9 is 2 MiB, 10 is 4 MiB', '9')
    .option('--hugepages', 'puts them into the pool of huge pages at the end')
    .addHelpText(
      'after',
      `${TRIED}
Examples:
  dimmer plan contiguous 512 --order 9                      512 pieces of 2 MiB
  sudo dimmer plan contiguous 512 --hugepages -o huge.json  and into the pool with them`,
    )
    .action((chunks: string, options: Options) => exit(runContiguous(io, chunks, options)));
}

const optionsOf = ({ force, zone }: Options): PlanOptions => ({
  force: force === true,
  ...(zone === 'kernel' ? { zone } : {}),
});

function runAdd(io: Io, words: readonly string[], options: Options): number {
  const goal = addGoal(words);
  if (!goal.ok) return complain(io, usage(goal.error));
  if (options.zone !== 'movable' && options.zone !== 'kernel')
    return complain(io, usage(`--zone is movable or kernel, not "${options.zone}"`));
  return answer(io, goal.value, options, optionsOf(options));
}

function runContiguous(io: Io, chunksText: string, options: Options): number {
  const chunks = /^[1-9]\d{0,8}$/.test(chunksText) ? Number(chunksText) : undefined;
  if (chunks === undefined) return complain(io, usage(`how many chunks? a number from 1 on, not "${chunksText}"`));
  const order = /^(\d|10)$/.test(options.order ?? '') ? Number(options.order) : undefined;
  if (order === undefined)
    return complain(io, usage(`--order is 0 to 10 (9 is 2 MiB, 10 is 4 MiB), not "${options.order}"`));
  const hugePages = options.hugepages === true;
  return answer(io, { verb: 'contiguous', chunks, order, hugePages }, options, {});
}

function runRemove(io: Io, targetText: string, options: Options): number {
  const helps = helpsOf(options.with);
  if (!helps.ok) return complain(io, helps.error);
  const target = targetText === 'all' ? ok({ kind: 'all' as const }) : parseTarget(targetText);
  if (!target.ok) return complain(io, usage(target.error.sentence));
  const sized = target.value.kind === 'size' ? target.value.bytes : undefined;
  if (sized !== undefined && options.with !== undefined)
    return complain(
      io,
      usage(
        '--with compares memory that is named; a size has no place: take block:, range:, node:, zone:, dimm: or all',
      ),
    );
  const goal: Goal = { verb: 'remove', target: targetText, ...(sized === undefined ? {} : { bytes: sized }) };
  return answer(io, goal, options, optionsOf(options), (twin, o) => {
    // A target that the machine does not have is a mistake of who typed it, not a plan that is not feasible. A DIMM that the
    // guest has no blocks of is still there.
    const { value } = target;
    if (value.kind === 'dimm' && 'id' in value && o.hypervisor?.dimms.some((d) => d.id === value.id)) return undefined;
    const blocks = blocksOfTarget(twin, value);
    return blocks.ok ? undefined : usage(blocks.error.sentence);
  });
}

/** Opens the machine, plans, prints and writes. @param check  why the goal makes no sense on this machine */
function answer(
  io: Io,
  goal: Goal,
  options: Options,
  planOptions: PlanOptions,
  check: (twin: Twin, o: Observation) => Complaint | undefined = () => undefined,
): number {
  const twin = openTwin(io, options);
  if (!twin.ok) return complain(io, twin.error);
  const input = planInputOf(twin.value);
  if (!input.ok) return complain(io, input.error);
  const wrong = check(twin.value, input.value.observation);
  if (wrong !== undefined) return complain(io, wrong);
  const progress = new Progress(io, options.quiet === true);
  progress.say('trying on a copy');
  const plan = makePlan(goal, input.value, planOptions);
  progress.end();
  if (goal.verb === 'remove' && options.with !== undefined && options.json === true)
    return printComparison(io, goal.target, twin.value, options, plan);
  if (options.output !== undefined) {
    const refused = writeWhole(options.output, formatJson('plan', plan), { isOurs: isPlan, kind: 'a plan' });
    if (refused !== undefined) return complain(io, refused);
  }
  if (options.json === true) io.out(formatJson('plan', plan));
  else {
    const style = { colour: wantsColour(io), width: widthOf(io), all: options.all === true };
    io.out(formatPlan(plan, sourceLine(sourceInfo(twin.value)), style));
    io.out(sayNext(plan, options));
  }
  if (goal.verb === 'remove' && options.with !== undefined)
    return printComparison(io, goal.target, twin.value, options, plan);
  return plan.feasible ? EXIT.OK : EXIT.NOT_FEASIBLE;
}

/** What to type now. */
function sayNext(plan: Plan, { output, from, with: helps }: Options): string {
  const source = from === undefined ? '' : ` --from ${from}`;
  if (!plan.feasible) {
    const hint = plan.goal.verb === 'remove' && plan.goal.bytes === undefined && helps === undefined;
    return hint
      ? `\nWhat would be needed beyond Linux: dimmer plan remove ${plan.goal.target}${source} --with all\n`
      : '';
  }
  if (plan.units.every((u) => u.steps.length === 0)) return '';
  if (plan.host.kind === 'capture')
    return '\nThis is a saved machine: nothing can be done to it. Plan on the machine itself.\n';
  if (output === undefined) return '\nTo do it, write the plan with -o FILE, then: dimmer apply FILE\n';
  return `\nTo do it: dimmer apply ${output}${plan.host.kind === 'linux' ? ' --apply' : source}\n`;
}

/** What helps beyond Linux would be worth; nothing to compare where Linux alone does it. */
function printComparison(io: Io, targetText: string, twin: Twin, options: Options, plan: Plan): number {
  const code = plan.feasible ? EXIT.OK : EXIT.NOT_FEASIBLE;
  if (plan.feasible && options.json !== true) {
    io.out('\nLinux alone does it: no help is needed.\n');
    return code;
  }
  const helps = helpsOf(options.with);
  const target = targetText === 'all' ? ok({ kind: 'all' as const }) : parseTarget(targetText);
  if (!helps.ok || !target.ok) return EXIT.USAGE; // both were understood before
  const blocks = blocksOfTarget(twin, target.value);
  if (!blocks.ok) return complain(io, usage(blocks.error.sentence));
  const progress = new Progress(io, options.quiet === true);
  const compared = compareRemoval(twin, blocks.value, {
    helps: helps.value,
    onProgress: (done, of) => progress.step('trying blocks', done, of),
  });
  progress.end();
  if (!compared.ok) return complain(io, { exit: EXIT.UNSUPPORTED, sentence: compared.error });
  if (options.json === true)
    io.out(formatJson('plan-remove', { source: sourceInfo(twin), target: targetText, ...compared.value }));
  else
    io.out(
      `\nBeyond Linux\n${formatRemoval(targetText, compared.value, { colour: wantsColour(io), width: widthOf(io), all: options.all === true })}`,
    );
  return code;
}

function helpsOf(text: string | undefined): Result<readonly Help[], Complaint> {
  if (text === undefined || text === 'all') return ok(HELPS);
  const words = text.split(',').map((w) => w.trim());
  const wrong = words.find((w) => !(HELPS as readonly string[]).includes(w));
  if (wrong !== undefined) return err(usage(`--with knows ${HELPS.join(', ')} and all, not "${wrong}"`));
  return ok(words as Help[]); // each was looked up
}

/** May this file be replaced by a plan? */
function isPlan(text: string): boolean {
  try {
    return (JSON.parse(text) as { dimmer?: unknown } | null)?.dimmer === 'plan';
  } catch {
    return false;
  }
}
