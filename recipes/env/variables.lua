-- Environment variables as facts need them: absent, or of the right form. Malformed ones are reported once each, with what to do, and
-- then count as absent; those that say which rank this process is end the program instead (env/launch.lua).
-- A variable whose name looks like a secret's cannot be read here at all.
local config = require "kava.config"

local variables = {}

local Variables = {}
Variables.__index = Variables

--- getenv -> a reader; reader.warnings collects what was malformed.
function variables.new(getenv)
  return setmetatable({ getenv = getenv, warnings = {} }, Variables)
end

function Variables:warn(text, ...)
  self.warnings[#self.warnings + 1] = text:format(...)
end

--- As it is set, the empty text included; nil where it is not.
function Variables:raw(name)
  if config.secret(name) then error(name .. ": a variable of that name is never read", 2) end
  return self.getenv(name)
end

--- Whether it is set and not blank.
function Variables:has(name)
  return (self:raw(name) or ""):find "%S" ~= nil
end

--- One line of text without control characters, quotes or what a shell would expand: ids, names, folders.
function Variables:text(name)
  if not self:has(name) then return nil end
  local value = self:raw(name)
  if value:find "[%c\"'`$;|&<>\\]" then
    self:warn("%s holds characters that no id, name or folder has: it is ignored; set it anew, or unset it", name)
    return nil
  end
  return value
end

local MOST = 1 << 40 -- of ranks, seconds, MiB: more is damage, and products with it would overflow

--- text -> a whole number from `least` (0 when not given) | nil, what was expected
function variables.whole(text, least)
  local n = text:match "^%s*(%-?%d+)%s*$"
  n = n and math.tointeger(tonumber(n))
  if n and n >= (least or 0) and n <= MOST then return n end
  return nil, ("a whole number from %d expected"):format(least or 0)
end

--- A whole number from `least` (0 when not given).
function Variables:integer(name, least)
  if not self:has(name) then return nil end
  local n, expected = variables.whole(self:raw(name), least)
  if not n then self:warn("%s=%s: %s; it is ignored: correct it, or unset it", name, variables.shown(self:raw(name)), expected) end
  return n
end

--- The first of several names that has a value of that kind ("text" or "integer") -> value, name
function Variables:first(kind, names)
  for _, name in ipairs(names) do
    local value = self[kind](self, name)
    if value ~= nil then return value, name end
  end
end

--- A value as a message shows it: printable, not long.
function variables.shown(text, most)
  text, most = text:gsub("%c", "?"), most or 60
  return #text <= most and text or text:sub(1, most - 3) .. "…"
end

return variables
