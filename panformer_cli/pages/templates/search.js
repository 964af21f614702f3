// The search: `zebra and snow`, `person > 0.8`, `not car`, `cat or dog`, `"salt and pepper"`.
//
// query: all {"or" all}; all: term {("and" | ",") term}; term: ["not"] name [(">" | ">=" | "<" | "<=") score]
// A name stands for the category of that name, otherwise for all categories and file names that contain it.
const COMPARE = {
  ">": (score, limit) => score > limit,
  ">=": (score, limit) => score >= limit,
  "<": (score, limit) => score < limit,
  "<=": (score, limit) => score <= limit,
};

// Return a function from an image to whether it matches. Throws an Error with a sentence if the query is not complete.
function parseQuery(query, categories) {
  const tokens = [...query.toLowerCase().matchAll(/"([^"]*)"?|(>=|<=|>|<)|(,)|[^\s"<>,]+/g)].map(match =>
    ({ text: match[1] ?? match[0], kind: match[1] !== undefined ? "name" : match[2] ? "compare" : match[3] ? "and" : "word" }));
  for (const token of tokens) if (token.kind === "word" && /^(and|or|not)$/.test(token.text)) token.kind = token.text;
  const alternatives = split(tokens, "or").map(part => split(part, "and").map(term => parseTerm(term, categories)));
  return image => alternatives.some(terms => terms.every(term => term(image)));
}

function split(tokens, kind) {
  const parts = [[]];
  for (const token of tokens) {
    if (token.kind === kind) parts.push([]);
    else parts.at(-1).push(token);
  }
  return parts;
}

function parseTerm(tokens, categories) {
  const negative = tokens[0]?.kind === "not", rest = negative ? tokens.slice(1) : tokens;
  const at = rest.findIndex(token => token.kind === "compare");
  const names = (at < 0 ? rest : rest.slice(0, at)).map(token => token.text);
  if (names.length === 0) throw new Error(at < 0 ? "A name is missing." : "A name is missing before " + rest[at].text + ".");
  const matches = at < 0 ? nameTerm(names, categories) : scoreTerm(names.join(" "), rest.slice(at), categories);
  return negative ? image => !matches(image) : matches;
}

// Without a category or file of this name, every word has to match.
function nameTerm(names, categories) {
  const phrase = names.join(" "), found = categoriesOf(phrase, categories);
  if (found.size === 0 && names.length > 1) {
    const whole = image => image.name.toLowerCase().includes(phrase), words = names.map(name => nameTerm([name], categories));
    return image => whole(image) || words.every(word => word(image));
  }
  const exact = categories.some(name => name.toLowerCase() === phrase);
  return image => has(image, found, () => true) || (!exact && image.name.toLowerCase().includes(phrase));
}

function scoreTerm(name, [compare, limit, ...more], categories) {
  const percent = limit?.text.endsWith("%"), value = percent ? Number(limit.text.slice(0, -1)) / 100 : Number(limit?.text);
  if (!limit || more.length || Number.isNaN(value)) throw new Error("Expected a score after " + compare.text + ", such as 0.8.");
  const found = categoriesOf(name, categories), limitOf = Math.round(1000 * value);
  return image => has(image, found, score => score >= 0 && COMPARE[compare.text](score, limitOf));
}

// Return the numbers of the categories of a name, or of those that contain it.
function categoriesOf(name, categories) {
  const lower = categories.map(category => category.toLowerCase()), numbers = lower.map((_, number) => number);
  const exact = numbers.filter(number => lower[number] === name);
  return new Set(exact.length ? exact : numbers.filter(number => lower[number].includes(name)));
}

// `segments` has category and score, in thousandths, of one segment after the other.
function has({ segments }, categories, accepts) {
  for (let at = 0; at < segments.length; at += 2)
    if (categories.has(segments[at]) && accepts(segments[at + 1])) return true;
  return false;
}
