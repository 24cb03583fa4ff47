/**
 * Ends a text before the first of some words. Text that could be the beginning of one is held back until it is clear.
 */
export class StopText {
  private held = ''

  constructor(private readonly words: readonly string[]) {}

  /** Takes more text; returns what may be shown, and whether a word was found. */
  push(text: string): { show: string; found: boolean } {
    const all = this.held + text
    const found = this.words.map((word) => all.indexOf(word)).filter((at) => at >= 0)
    if (found.length > 0) {
      this.held = ''
      return { show: all.slice(0, Math.min(...found)), found: true }
    }
    const longest = Math.max(0, ...this.words.map((word) => overlap(all, word)))
    this.held = all.slice(all.length - longest)
    return { show: all.slice(0, all.length - longest), found: false }
  }

  /** What is still held, when no more text comes. */
  flush(): string {
    const rest = this.held
    this.held = ''
    return rest
  }
}

// The length of the longest end of the text that a word begins with.
function overlap(text: string, word: string): number {
  for (let n = Math.min(word.length - 1, text.length); n > 0; n--) {
    if (text.endsWith(word.slice(0, n))) return n
  }
  return 0
}
