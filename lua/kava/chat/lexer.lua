-- The tokens of a chat template: Jinja's, with trim_blocks and lstrip_blocks, as transformers has it.
-- A token is { kind, value, line }: "data" between tags; "variable_begin", "variable_end", "block_begin", "block_end"; within tags
-- "name", "string", "integer", "float" and "operator" (the value says which); "eof".
local value = require "kava.chat.value"

local lexer = {}

-- Longest first. Brackets are counted, so that "}}" within braces closes two of them.
local operators = { "//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", ".", ":", "|", ",", ";", "(", ")", "[",
  "]", "{", "}" }
local closes = { ["("] = ")", ["["] = "]", ["{"] = "}" }

local function count_lines(text) return select(2, text:gsub("\n", "")) end

local escapes = { n = "\n", t = "\t", r = "\r", a = "\a", b = "\b", f = "\f", v = "\v", ["\\"] = "\\", ["'"] = "'", ['"'] = '"',
  ["\n"] = "" }

-- What stands between quotes: Python's escapes.
local function unescape(text, fail)
  if not text:find("\\", 1, true) then return text end
  local out, at = {}, 1
  while at <= #text do
    local stop = text:find("\\", at, true) or #text + 1
    out[#out + 1] = text:sub(at, stop - 1)
    if stop > #text then break end
    local c = text:sub(stop + 1, stop + 1)
    local width = c == "x" and 2 or c == "u" and 4 or c == "U" and 8 or 0
    local octal = text:match("^[0-7][0-7]?[0-7]?", stop + 1)
    if width > 0 then
      local digits = text:sub(stop + 2, stop + 1 + width)
      local code = #digits == width and digits:find "^%x+$" and tonumber(digits, 16)
      if not code or code > 0x10ffff or (code >= 0xd800 and code <= 0xdfff) then fail("a broken escape \\" .. c) end
      out[#out + 1], at = utf8.char(code), stop + 2 + width
    elseif octal then
      out[#out + 1], at = utf8.char(tonumber(octal, 8)), stop + 1 + #octal
    elseif escapes[c] then
      out[#out + 1], at = escapes[c], stop + 2
    else
      out[#out + 1], at = "\\", stop + 1 -- an unknown escape stands for itself
    end
  end
  return table.concat(out)
end

-- A number at `at` -> kind, value, text; nil where there is none.
local function number_at(source, at)
  for base, pattern in pairs { [2] = "^0[bB]_?([01][01_]*)", [8] = "^0[oO]_?([0-7][0-7_]*)", [16] = "^0[xX]_?(%x[%x_]*)" } do
    local from, to, digits = source:find(pattern, at)
    if from then return "integer", tonumber((digits:gsub("_", "")), base), source:sub(from, to) end
  end
  local whole = source:match("^%d[%d_]*", at)
  if not whole then return nil end
  local rest = at + #whole
  local fraction = source:match("^%.%d[%d_]*", rest) or ""
  local exponent = source:match("^[eE][+-]?%d[%d_]*", rest + #fraction) or ""
  local text = whole .. fraction .. exponent
  if #text > #whole and source:sub(at - 1, at - 1) ~= "." then return "float", tonumber((text:gsub("_", ""))) + 0.0, text end
  return "integer", math.tointeger(tonumber((whole:gsub("_", "")))), whole
end

-- The tokens of source. Raises value.error with the line.
function lexer.tokens(source)
  source = source:gsub("\r\n?", "\n")
  if source:sub(-1) == "\n" then source = source:sub(1, -2) end
  local tokens, line, at, line_starting = {}, 1, 1, true
  local function fail(message) value.fail_at(line, message) end
  local function add(kind, text) tokens[#tokens + 1] = { kind = kind, value = text, line = line } end

  -- Data before a tag at `stop`: without its trailing white space where the tag says so, or where it is alone on its line.
  local function add_data(stop, sign, block)
    local text = source:sub(at, stop - 1)
    local kept = text
    if sign == "-" then
      kept = value.rstrip(text)
    elseif sign ~= "+" and block then
      local last = text:match "^.*()\n"
      local begin = last and last + 1 or 1
      if (last or line_starting) and begin <= #text and value.strip(text:sub(begin)) == "" then kept = text:sub(1, begin - 1) end
    end
    if kept ~= "" then add("data", kept) end
    line = line + count_lines(text)
  end

  -- Behind a tag's end at `stop`: where the text goes on.
  local function go_on(from, stop, sign, trims)
    at = stop + 1
    if sign == "-" then
      at = value.skip(source, at)
    elseif sign ~= "+" and trims and source:sub(at, at) == "\n" then
      at = at + 1
    end
    line = line + count_lines(source:sub(from, at - 1))
    line_starting = source:sub(at - 1, at - 1) == "\n"
  end

  local function tag_inside(stop_mark, end_kind)
    local open = {}
    while true do
      local space = source:match("^%s+", at)
      if space then
        line = line + count_lines(space)
        at = at + #space
      end
      if at > #source then fail(("the tag is not closed: '%s' expected"):format(stop_mark)) end
      local sign = source:sub(at, at)
      if #open == 0 then
        if source:sub(at, at + 1) == stop_mark then
          add(end_kind)
          return go_on(at, at + 1, "", end_kind == "block_end")
        elseif (sign == "-" or (sign == "+" and end_kind == "block_end")) and source:sub(at + 1, at + 2) == stop_mark then
          add(end_kind)
          return go_on(at, at + 2, sign, end_kind == "block_end")
        end
      end
      local kind, number, text = number_at(source, at)
      local name = source:match("^[%a_\x80-\xff][%w_\x80-\xff]*", at)
      if kind then
        if not number then fail("a number that is too large") end
        add(kind, number)
        at = at + #text
      elseif name then
        add("name", name)
        at = at + #name
      elseif sign == "'" or sign == '"' then
        local stop = at + 1
        while true do
          local next_at = source:find("[\\" .. sign .. "]", stop)
          if not next_at then fail "a string that does not end" end
          if source:sub(next_at, next_at) == sign then stop = next_at break end
          stop = next_at + 2
        end
        local inside = source:sub(at + 1, stop - 1)
        add("string", unescape(inside, fail))
        line = line + count_lines(inside)
        at = stop + 1
      else
        local found
        for _, operator in ipairs(operators) do
          if source:sub(at, at + #operator - 1) == operator then found = operator break end
        end
        if not found then fail(("unexpected character '%s'"):format(source:match("^" .. utf8.charpattern, at) or "?")) end
        if closes[found] then open[#open + 1] = closes[found]
        elseif found == ")" or found == "]" or found == "}" then
          if open[#open] ~= found then fail(("unexpected '%s'"):format(found)) end
          open[#open] = nil
        end
        add("operator", found)
        at = at + #found
      end
    end
  end

  while true do
    local stop = source:find("{[{%%#]", at)
    if not stop then
      add_data(#source + 1, "+", false)
      add "eof"
      return tokens
    end
    local mark = source:sub(stop + 1, stop + 1)
    local sign = source:match("^[+-]", stop + 2) or ""
    add_data(stop, sign, mark ~= "{")
    local from = stop + 2 + #sign
    if mark == "#" then
      local close = source:find("#}", from, true)
      if not close then fail "a comment that does not end" end
      local last = close > from and source:sub(close - 1, close - 1) or ""
      line = line + count_lines(source:sub(from, close - 1))
      go_on(close, close + 1, (last == "-" or last == "+") and last or "", true)
    elseif mark == "%" and source:find("^%s*raw%s*%-?%%}", from) then
      local _, begin, trim = source:find("^%s*raw%s*(%-?)%%}", from)
      line = line + count_lines(source:sub(from, begin))
      at = begin + 1
      local close, close_end, before, after = source:find("{%%([+-]?)%s*endraw%s*([+-]?)%%}", at)
      if not close then fail "raw that does not end" end
      if trim == "-" then at = value.skip(source, at) end
      line_starting = false
      add_data(close, before, true)
      go_on(close, close_end, after, true)
    else
      at = from
      add(mark == "{" and "variable_begin" or "block_begin")
      tag_inside(mark == "{" and "}}" or "%}", mark == "{" and "variable_end" or "block_end")
    end
  end
end

return lexer
