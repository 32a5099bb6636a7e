// judgeBlocks: the verdicts of the blocks asked about, one after the other, telling how far it is.

import { type BlockId, toBlockId } from '#mm/index';
import { type BlockVerdict, Judge, type JudgeHelp, type Twin } from '#twin/index';

/** Each block judged alone, ascending. `onProgress` gets (done, of) after each. Cost: some milliseconds a block. */
export function judgeBlocks(
  twin: Twin,
  ids: readonly BlockId[],
  onProgress: (done: number, of: number) => void = () => {},
  help: JudgeHelp = {},
): BlockVerdict[] {
  const judge = new Judge(twin, help);
  const out: BlockVerdict[] = [];
  for (const id of ids) {
    const verdict = judge.judge(toBlockId(id));
    if (verdict !== undefined) out.push(verdict);
    onProgress(out.length, ids.length);
  }
  return out;
}
