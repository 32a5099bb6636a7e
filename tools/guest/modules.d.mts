// Types of modules.mjs.

export function modulesFor(
  root: string,
  wanted: readonly string[],
): readonly { readonly name: string; readonly data: Buffer }[];
