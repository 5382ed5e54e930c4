"""The little world of the starter model: its names, things, places, facts, and phrases in two languages."""


def words(told: str) -> list[str]:
    return told.split()


NAMES = words(
    "Mia Tom Anna Ben Lena Omar Rosa Jack Nora Ivan Lucy Paul Sara Hugo Ella Max Clara Leo Ruth Sam Vera Noah Alma Finn"
)
ANIMALS = words("fox heron cat dog owl goat mouse crow otter hare seal duck")
THINGS = words(
    "key lantern rope kettle basket hammer letter drum bell spoon map coat book clock ladder whistle cup ring"
)
COLOURS = words("red blue green yellow white black brown grey")
PLACES = words(
    "mill harbour market bridge school garden station forest library bakery beach tower farm well church river"
)
FEELINGS = words("happy sad tired proud angry calm hungry scared")
WEATHER = ("It was raining", "The sun was shining", "Snow was falling", "The wind was strong", "It was a warm evening")

OPPOSITES = """hot cold;big small;open closed;up down;fast slow;early late;full empty;wet dry;old young;light dark
happy sad;loud quiet;hard soft;high low;near far;left right;first last;long short;thick thin;clean dirty
rich poor;strong weak;sweet sour;day night;inside outside;always never;true false;heavy light;wide narrow"""
YOUNG = "dog puppy;cat kitten;cow calf;horse foal;sheep lamb;goat kid;hen chick;duck duckling;bear cub;frog tadpole"
PAST = """go went;see saw;eat ate;run ran;write wrote;take took;give gave;come came;find found;sing sang
swim swam;drink drank;know knew;fly flew;break broke;speak spoke;buy bought;think thought;catch caught;walk walked
play played;open opened;ask asked;help helped"""
PLURALS = """mouse mice;child children;foot feet;tooth teeth;man men;woman women;leaf leaves;knife knives
box boxes;city cities;goose geese;book books;key keys;boat boats;fox foxes;baby babies;clock clocks;sheep sheep"""
USED = """a hammer=to drive nails;a kettle=to boil water;a lantern=to give light;a ladder=to climb up
a key=to open a lock;a rope=to tie things;a spoon=to eat soup;a broom=to sweep the floor;a saw=to cut wood
a map=to find the way;a clock=to tell the time;a bell=to call people;an umbrella=to stay dry
a needle=to sew;a boat=to cross water"""
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
NUMBERS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)

# English, German with its gender.
NOUNS = """boat das Boot;house das Haus;dog der Hund;cat die Katze;book das Buch;tree der Baum;lamp die Lampe
key der Schlüssel;child das Kind;bridge die Brücke;garden der Garten;flower die Blume;apple der Apfel;horse das Pferd
clock die Uhr;bread das Brot;table der Tisch;door die Tür"""
ADJECTIVES = """red rot;old alt;small klein;big groß;new neu;green grün;beautiful schön;white weiß;black schwarz
good gut;long lang;young jung"""

GOOD = """the soup was warm and full of taste;the staff were kind and quick;I would come back tomorrow;
the room was clean and quiet;the story made me laugh;a lovely evening from start to end;
the bread was fresh;everything worked at once;the best film that I saw this year;
they answered every question with a smile;it was worth every cent;the music was wonderful"""
BAD = """the soup was cold and had no taste;the staff were rude and slow;I will never come back;
the room was dirty and loud;the story was dull and far too long;a wasted evening from start to end;
the bread was stale;nothing worked at all;the worst film that I saw this year;
they did not answer a single question;it was not worth the money;the music hurt my ears"""


def pairs(told: str, between: str = " ") -> list[tuple[str, str]]:
    """(left, right) of each entry; entries stand one after another with a semicolon or a line end between."""
    entries = [entry for line in told.splitlines() for entry in line.split(";")]
    return [(left, right) for left, _, right in (entry.partition(between) for entry in entries)]


def phrases(told: str) -> list[str]:
    return [" ".join(phrase.split()) for phrase in told.split(";")]
