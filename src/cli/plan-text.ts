// Plans as text: what would be done, what it predicts and how each step is undone, for a person who decides.
//
//   header       source, goal, whether it is feasible, the summary
//   table        one line a step
//   warnings     of the plan, then the risks of single steps
//   rejected     what was tried and did not do, with the reason
//
// Predicted times are assumed constants, and the text says so; page counts are the copy's.

import { formatSize, groupDigits, plural } from '#base/format';
import type { Action, Goal, Plan, Step } from '#plan/index';
import { formatMs, hanging, paint } from './style.ts';
import { type Column, formatTable } from './table.ts';

export type PlanStyle = {
  readonly colour: boolean;
  readonly width: number | undefined;
  /** All rejected candidates, not the first few. */
  readonly all: boolean;
};

const REJECTED_SHOWN = 8;

/** "remove dimm:dimm1", "add 10 GiB on node 1". */
export function sayGoal(goal: Goal): string {
  switch (goal.verb) {
    case 'remove':
      return `remove ${goal.target}`;
    case 'add':
      return `add ${formatSize(goal.bytes)} on node ${goal.node}`;
    case 'resize':
      return `resize to ${formatSize(goal.bytes)}`;
    case 'contiguous':
      return `${plural(goal.chunks, 'free chunk')} of order ${goal.order} (${formatSize(4096 * 2 ** goal.order)})${goal.hugePages ? ', as huge pages' : ''}`;
  }
}

/** "81 pages, 2.4ms", "1 GiB freed, 1ms". */
export function sayPrediction({ predicts }: Step): string {
  const { pagesToMove, bytesFreed, ms } = predicts;
  const parts: string[] = [];
  if (bytesFreed !== undefined) parts.push(`${formatSize(bytesFreed.value)} freed`);
  if (pagesToMove !== undefined) parts.push(`${groupDigits(pagesToMove.value)} pages`);
  parts.push(formatMs(ms.value));
  return parts.join(', ');
}

/** The way back in three words. */
export function sayUndo({ undo }: Step): string {
  return undo === undefined ? 'none' : undo.length === 0 ? '-' : undo.map(shortAction).join(', ');
}

function shortAction(a: Action): string {
  switch (a.do) {
    case 'online-block':
      return a.zone === 'default' ? 'online' : `online_${a.zone}`;
    case 'offline-block':
      return 'offline';
    case 'add-dimm':
      return 'add it';
    case 'remove-dimm':
      return 'remove it';
    case 'resize-virtio-mem':
    case 'balloon':
      return `back to ${formatSize(a.bytes)}`;
    case 'set-hugepages':
      return `back to ${a.pages}`;
    case 'auto-online':
      return a.word;
    case 'drop-caches':
    case 'compact':
      return '-';
  }
}

/** Ends with a newline. @param source  the line that says which machine it is about */
export function formatPlan(plan: Plan, source: string, style: PlanStyle): string {
  const { colour, width, all } = style;
  const verdict = plan.feasible ? paint('feasible', 'green', colour) : paint('not feasible', 'red', colour);
  let text = `${source}\nPlan: ${sayGoal(plan.goal)}: ${verdict}\n${hanging('', plan.summary, { indent: 0, width })}\n`;
  if (plan.units.some((u) => u.steps.length > 0))
    text += `\n${formatSteps(plan, style)}Times are assumed; pages are those of the copy.\n`;
  const risks = plan.units.flatMap((u) =>
    u.steps.flatMap((s) => (s.risk === undefined ? [] : [`step ${s.n}: ${s.risk}`])),
  );
  const told = new Set(plan.warnings.flatMap((w) => risks.filter((r) => w.endsWith(r.slice(r.indexOf(': ') + 2)))));
  text += section('Warnings', [...plan.warnings, ...risks.filter((r) => !told.has(r))], style);
  const rejected = plan.rejected.map((r) => `${r.name}: ${r.reason}`);
  const shown = all ? rejected : rejected.slice(0, REJECTED_SHOWN);
  text += section('Rejected', shown, style);
  if (shown.length < rejected.length) text += `  and ${rejected.length - shown.length} more (-a)\n`;
  return text;
}

type Row = { readonly unit: string; readonly step: Step };

const COLUMNS: readonly Column<Row>[] = [
  { name: 'N', align: 'right', help: 'the step', text: (r) => `${r.step.n}` },
  { name: 'UNIT', align: 'left', help: 'done whole or undone', text: (r) => r.unit, narrow: 'drop' },
  { name: 'PREDICTS', align: 'left', help: 'assumed times', text: (r) => sayPrediction(r.step) },
  { name: 'UNDO', align: 'left', help: 'the way back', text: (r) => sayUndo(r.step), narrow: 'drop' },
  { name: 'STEP', align: 'left', help: 'what is done', text: (r) => r.step.title, prose: true },
];

/** The table of steps; the unit is told where a plan has several, and not every step is one. */
export function formatSteps(plan: Plan, { colour, width }: Pick<PlanStyle, 'colour' | 'width'>): string {
  const grouped = plan.units.length > 1 && plan.units.some((u) => u.steps.length > 1);
  const columns = grouped ? COLUMNS : COLUMNS.filter((c) => c.name !== 'UNIT');
  const rows = plan.units.flatMap((u) => u.steps.map((step) => ({ unit: u.name, step })));
  return formatTable(rows, columns, { form: 'table', headings: true, colour, width, chosen: false });
}

function section(name: string, lines: readonly string[], { colour, width }: PlanStyle): string {
  if (lines.length === 0) return '';
  const body = lines.map((l) => `${hanging('  ', l, { indent: 4, width })}\n`).join('');
  return `\n${paint(name, 'bold', colour)}\n${body}`;
}
