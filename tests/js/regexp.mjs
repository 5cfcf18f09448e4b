// Runs regular expressions for tests/test_regexp.py, which compares.
//
// Reads [[source, flags, [text, ...]], ...] from standard input. Writes for each source null if JavaScript refuses
// it, else for each text [index, groups, named, all]: the first match (index null if there is none; a group that
// did not take part is null) and the texts of all matches.

import { readFileSync, writeSync } from 'node:fs'

function run (source, flags, texts) {
  let first, all
  try {
    first = new RegExp(source, flags)
    all = new RegExp(source, flags + 'g')
  } catch {
    return null
  }
  return texts.map(text => {
    first.lastIndex = 0
    const match = text.match(first)
    const found = text.match(all) ?? []
    return match === null ? [null, [], {}, found] : [match.index, [...match], { ...match.groups }, found]
  })
}

const results = JSON.parse(readFileSync(0, 'utf8')).map(entry => run(...entry))
const output = Buffer.from(JSON.stringify(results, (key, value) => value === undefined ? null : value))
for (let at = 0; at < output.length;) at += writeSync(1, output, at)
